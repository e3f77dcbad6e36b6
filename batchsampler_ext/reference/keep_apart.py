"""The oracle of keep_apart(): swaps instances between batches until no batch holds an id too often.

The excess of a batch is the sum over its ids of max(0, members with this id - max_per_batch). Each step lowers the sum
of all excesses, so the repair ends.

1. Each batch in turn gives away the members of an id that it holds too often, those with the fewest edges inside first.
   A member is swapped with one of its own neighbors in another batch, or with a random member of a batch that holds
   many of its neighbors. Neither may add excess. The swap that loses the fewest edges inside batches is made.
2. If there is no such swap, a chain of moves is searched breadth-first. Each moved instance takes the place of the
   next, and the last takes the place of the first, or of an instance that is itself too many. For a single column this
   search is that for an augmenting path of a maximum flow: if it fails, no assignment exists.
3. If it fails with several columns, random swaps shake the batches, and both steps are tried again.
4. Members that have been moved are swapped on, where that gains edges inside batches: in a few passes, which end as
   soon as there are as many as before the repair.
5. At last, members that meet a partner are swapped likewise, where that separates more partners than it joins.
The CPU engine is csrc/cpu/partition/keep_apart.cpp.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from ..reference import MASK32
from ..reference.partition import keyed_hash

MAX_NEAR, NUM_NEAR_BATCHES, NUM_PROBES = 8, 2, 8  # candidates: neighbors; nearest batches, and members of each
NUM_RANDOM_PROBES, MAX_RANDOM = 256, 4  # if there is none: random positions to look at; swaps to choose from
MAX_REFINEMENTS = 3
MAX_SHAKES, NUM_SHAKE_PROBES = 64, 8
MAX_VISITS = 1 << 27  # of batches and instances by the search for chains, before it gives up
PARTNER_LOSS = 1 << 20  # loss of joining two partners, in edges


def keep_apart(members, starts, codes, num_codes, max_per_batch, partners, neighbors, key):
    """Returns (members after the swaps, excess that is left, pairs of partners in one batch).

    members: distinct instances, batch b from starts[b] to starts[b + 1]. codes: [L][C] of the members as given, -1 is
    no id. partners: a dict from an instance to a list. neighbors: [N][K], rows end with -1, or None.
    """
    return _Repair(members, starts, codes, max_per_batch, partners, neighbors, key).run()


class _Repair:
    def __init__(self, members, starts, codes, max_per_batch, partners, neighbors, key):
        self.members, self.starts = [int(x) for x in members], [int(s) for s in starts]
        self.num_batches, self.size = len(starts) - 1, len(members)
        self.most, self.partners, self.key, self.num_drawn, self.num_visits = max_per_batch, partners, key, 0, 0
        self.codes = {x: [int(c) for c in codes[i] if c >= 0] for i, x in enumerate(self.members)}
        self.num_columns = len(codes[0]) if self.size else 0
        self.lists = {
            x: [] if neighbors is None else [int(n) for n in neighbors[x] if n >= 0 and n != x] for x in self.members
        }
        self.batch_at = np.repeat(np.arange(self.num_batches), np.diff(self.starts)).tolist()
        self.position = {x: p for p, x in enumerate(self.members)}
        self.count = Counter((self.batch(x), c) for x in self.members for c in self.codes[x])

    def run(self):
        batch_before = {x: self.batch(x) for x in self.members}
        num_inside_before = self.num_inside()
        for batch in range(self.num_batches):
            self.clear(batch)
        left = self.chains()
        for _ in range(MAX_SHAKES if self.num_columns > 1 else 0):
            if not left or self.num_visits > MAX_VISITS:
                break
            self.shake(left[self.below(len(left))])
            for batch in range(self.num_batches):
                self.clear(batch)
            left = self.chains()
        if not left:
            for _ in range(MAX_REFINEMENTS):
                if self.num_inside() >= num_inside_before:
                    break
                for position in range(self.size):
                    if self.batch_at[position] != batch_before[self.members[position]]:
                        self.swap_best(position, "edges")
            for position in range(self.size):
                if self.num_partners(self.members[position], self.batch_at[position], None):
                    self.swap_best(position, "partners")
        excess = sum(max(0, n - self.most) for n in self.count.values())
        met = sum(self.num_partners(x, self.batch(x), None) for x in self.members) // 2
        return self.members, excess, met

    # --- the state ---------------------------------------------------------------------------------------------------
    def batch(self, x):
        return self.batch_at[self.position[x]] if x in self.position else -1

    def draw(self):
        self.num_drawn += 1
        return keyed_hash(self.key, self.num_drawn) >> 32

    def below(self, n):
        return self.draw() * n >> 32 & MASK32

    def released(self, x):
        """Returns the fall of the excess if x leaves its batch."""
        return sum(self.count[self.batch(x), c] > self.most for c in self.codes[x])

    def added(self, x, batch, leaving):
        """Returns the rise of the excess if x enters a batch that another instance leaves."""
        gone = [] if leaving is None else self.codes[leaving]
        return sum(self.count[batch, c] - (c in gone) >= self.most for c in self.codes[x])

    def num_partners(self, x, batch, leaving):
        return sum(self.batch(p) == batch and p != leaving for p in self.partners.get(x, []))

    def num_edges(self, x, batch, leaving):
        return sum(self.batch(n) == batch and n != leaving for n in self.lists[x])

    def num_inside(self):
        return sum(self.num_edges(x, self.batch(x), None) for x in self.members)

    def place(self, x, position):
        """Puts x at a position that is vacant, or will be."""
        self.members[position], self.position[x] = x, position
        for c in self.codes[x]:
            self.count[self.batch_at[position], c] += 1

    def lift(self, x):
        for c in self.codes[x]:
            self.count[self.batch(x), c] -= 1

    def move(self, path):
        """Moves the member at each position of a path to the next one, and the last to the first."""
        moved = [self.members[position] for position in path]
        for x in moved:
            self.lift(x)
        for x, position in zip(moved, path[1:] + path[:1], strict=True):
            self.place(x, position)

    # --- swaps -------------------------------------------------------------------------------------------------------
    def clear(self, batch):
        positions = range(self.starts[batch], self.starts[batch + 1])
        excess = [p for p in positions if self.released(self.members[p])]
        for position in sorted(excess, key=lambda p: (self.num_edges(self.members[p], batch, None), p)):
            if self.released(self.members[position]):
                self.swap_best(position, "excess")

    def swap_best(self, position, aim):
        """Swaps the member at a position with the best candidate, if there is one.

        aim: "excess" (any valid swap of a member that is too many), "edges" (more of them inside batches) or
        "partners" (fewer that meet).
        """
        x, batch = self.members[position], self.batch_at[position]
        num_edges_now = self.num_edges(x, batch, None)
        found: list[tuple[int, int, int]] = []  # (loss, order, position)

        def consider(other, is_neighbor=False):
            y, target = self.members[other], self.batch_at[other]
            if target == batch or self.added(x, target, y) or self.added(y, batch, x):
                return False
            joined = self.num_partners(x, target, y) + self.num_partners(y, batch, x)
            joined -= self.num_partners(x, batch, y) + self.num_partners(y, target, x)
            if aim == "partners" and joined >= 0:
                return False
            kept = 0 if self.released(y) else self.num_edges(y, target, None)
            loss = kept - self.num_edges(y, batch, x) - (votes[target] - is_neighbor) + PARTNER_LOSS * joined
            if aim == "edges" and loss + num_edges_now >= 0:
                return False
            found.append((loss, len(found), other))
            return True

        votes = Counter(self.batch(n) for n in self.lists[x])
        near = [n for n in self.lists[x] if self.batch(n) not in (-1, batch)]
        near.sort(key=lambda n: (-votes[self.batch(n)], self.batch(n)))  # stable
        num_near, num_batches, last = 0, 0, -1
        for n in near:
            if num_near < MAX_NEAR:
                num_near += consider(self.position[n], is_neighbor=True)
            target = self.batch(n)
            if target != last and num_batches < NUM_NEAR_BATCHES and not self.added(x, target, None):
                num_batches += 1
                for _ in range(NUM_PROBES):
                    consider(self.starts[target] + self.below(self.starts[target + 1] - self.starts[target]))
            last = target
        if not found and aim != "edges":
            for _ in range(NUM_RANDOM_PROBES):
                consider(self.below(self.size))
                if len(found) == MAX_RANDOM:
                    break
        if found:
            self.move([position, min(found)[2]])

    def shake(self, position):
        """Swaps a member with that of a few random ones that adds the least excess."""
        x, batch = self.members[position], self.batch_at[position]
        found = []
        for order in range(NUM_SHAKE_PROBES):
            other = self.below(self.size)
            y, target = self.members[other], self.batch_at[other]
            if target != batch:
                change = self.added(x, target, y) + self.added(y, batch, x) - self.released(y)
                found.append((change, order, other))
        if found:
            self.move([position, min(found)[2]])

    # --- chains ------------------------------------------------------------------------------------------------------
    def chains(self):
        """Moves instances along chains while that lowers the excess. Returns positions of members that are too many."""
        left = []
        for position in range(self.size):
            while self.released(self.members[position]):
                path = self.chain(position)
                if path is None:
                    left.append(position)
                    break
                self.move(path)
            if left and self.num_visits > MAX_VISITS:
                break
        return [p for p in left if self.released(self.members[p])]

    def chain(self, start):
        """Returns the positions of the shortest chain that lowers the excess, or None."""
        x, home = self.members[start], self.batch_at[start]
        parent, queue = {}, [start]
        unvisited = [(home + 1 + b) % self.num_batches for b in range(self.num_batches - 1)]
        for position in queue:
            self.num_visits += len(unvisited)
            targets = [b for b in unvisited if not self.added(self.members[position], b, None)]
            unvisited = [b for b in unvisited if b not in targets]
            for target in targets:
                self.num_visits += self.starts[target + 1] - self.starts[target]
                for last in range(self.starts[target], self.starts[target + 1]):
                    parent[last] = position
                    z = self.members[last]
                    if self.added(z, home, x) < self.released(x) + self.released(z):
                        path = [last]
                        while path[-1] != start:
                            path.append(parent[path[-1]])
                        return path[::-1]
                    queue.append(last)
        return None
