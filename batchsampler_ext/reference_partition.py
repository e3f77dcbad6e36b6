"""The oracle of partition epochs: every instance in exactly one batch, no batch left random.

Short walks seed every batch at once, batches grow by capacity-limited votes of out-neighbours, and rows that ended up
in the wrong batch relocate. Integers only; all decisions of a round read the state at its start, so that any schedule
gives the same answer. The kernel is csrc/cpu/partition.cpp.
"""

from __future__ import annotations

from .reference import (
    MASK64,
    PARTITION_HASH,
    PARTITION_WALK,
    ROOT_ORDER,
    WordStream,
    keyed_permutation,
    philox4x32,
    restart_threshold,
)

SEED_SIZE, MAX_VOTES, MAX_FRUITLESS = 8, 128, 64  # rows a seed walk collects, neighbours a row asks, steps in vain
NUM_VOTE_ROUNDS, NUM_GROWTH_ROUNDS, NUM_DISSOLVES, NUM_RELOCATIONS = 12, 4, 2, 2
NUM_TELEPORTS, NUM_TELEPORT_ROUNDS, NUM_RELOCATION_ROUNDS = 32, 6, 6
PICK_ROWS, CLAIM, FILL, ORDER, FIRST_ROUND = range(5)  # which hash of a stage
FILL_STAGE = 1 + NUM_DISSOLVES + NUM_TELEPORTS


def mix64(x: int) -> int:
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & MASK64
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & MASK64
    return x ^ x >> 31


def keyed_hash(key: int, value: int) -> int:
    return mix64((key + value * 0x9E3779B97F4A7C15) & MASK64)


def uniform_partition(num_nodes, batch_size, *, drop_last=False, seed=0, epoch=0):
    """A shuffled epoch: (full batches, tail)."""
    order = keyed_permutation(num_nodes, seed, ROOT_ORDER, epoch)
    num_full = num_nodes // batch_size
    batches = [order[b * batch_size : (b + 1) * batch_size] for b in range(num_full)]
    return batches, [] if drop_last else order[num_full * batch_size :]


def partition(neighbors, batch_size, *, restart_prob=0.2, drop_last=False, seed=0, epoch=0):
    """(full batches, tail): the proximity epoch. Batches list their nodes ascending."""
    return _Partition(neighbors, batch_size, restart_threshold(restart_prob), drop_last, seed, epoch).run()


class _Partition:
    def __init__(self, neighbors, batch_size, threshold, drop_last, seed, epoch):
        self.neighbors = [[int(j) for j in row if j >= 0] for row in neighbors]
        self.batch_size, self.threshold, self.seed, self.epoch = batch_size, threshold, seed, epoch
        n = len(self.neighbors)
        order = keyed_permutation(n, seed, ROOT_ORDER, epoch)
        num_left_out = n % batch_size if drop_last else 0
        self.left_out = set(order[n - num_left_out :])
        self.num_nodes = n - num_left_out
        self.capacity = [min(batch_size, self.num_nodes - first) for first in range(0, self.num_nodes, batch_size)]
        self.order = order
        self.owner = {node: -1 for node in range(n) if node not in self.left_out}
        self.count = [0] * len(self.capacity)

    def hash_key(self, stage, index):
        low, high, _, _ = (int(w) for w in philox4x32(self.seed, (PARTITION_HASH << 24 | self.epoch, stage, index, 0)))
        return high << 32 | low

    def unassigned(self):
        return [node for node, batch in self.owner.items() if batch == -1]

    def free(self, batch):
        return self.capacity[batch] - self.count[batch]

    def emptiest(self, batches, num):
        return sorted(batches, key=lambda b: (-self.free(b), b))[:num]

    def run(self):
        num_batches = len(self.capacity)
        self.grow(list(range(num_batches)), self.order[:num_batches], stage=0, num_rounds=NUM_VOTE_ROUNDS)

        for stage in range(1, 1 + NUM_DISSOLVES):
            if num_stuck := len(self.unassigned()):
                batches = self.emptiest(range(num_batches), max(1, num_stuck // self.batch_size))
                for node, batch in self.owner.items():
                    if batch in batches:
                        self.owner[node] = -1
                for batch in batches:
                    self.count[batch] = 0
                self.grow(batches, self.pick_roots(len(batches), stage), stage, NUM_VOTE_ROUNDS)

        for stage in range(1 + NUM_DISSOLVES, FILL_STAGE):
            num_stuck = len(self.unassigned())
            if num_stuck * 500 <= self.num_nodes:
                break
            open_batches = [b for b in range(num_batches) if self.free(b) > 0]
            batches = self.emptiest(open_batches, max(1, num_stuck // 8))
            self.grow(batches, self.pick_roots(len(batches), stage), stage, NUM_TELEPORT_ROUNDS)
            if (num_stuck - len(self.unassigned())) * 50 < num_stuck:
                break

        self.fill(FILL_STAGE)
        for stage in range(FILL_STAGE + 1, FILL_STAGE + 1 + NUM_RELOCATIONS):
            self.relocate(stage)

        key = self.hash_key(FILL_STAGE, ORDER)
        members: list[list[int]] = [[] for _ in range(num_batches)]
        for node, batch in self.owner.items():
            members[batch].append(node)
        full = [b for b in range(num_batches) if self.capacity[b] == self.batch_size]
        full.sort(key=lambda b: (keyed_hash(key, b), b))
        tail = members[-1] if num_batches > len(full) else []
        return [members[b] for b in full], tail

    def pick_roots(self, num, stage):
        """Distinct unassigned nodes, at random."""
        key = self.hash_key(stage, PICK_ROWS)
        return sorted(self.unassigned(), key=lambda node: (keyed_hash(key, node), node))[:num]

    def grow(self, batches, roots, stage, num_rounds):
        """Seed walks from the roots, whose nodes go to the best claim; then vote rounds until one is in vain."""
        claim_key = self.hash_key(stage, CLAIM)
        claims: dict[int, tuple[int, int, int]] = {}
        for batch, root in zip(batches, roots):
            for rank, node in enumerate(self.seed_walk(batch, root, stage)):
                claim = (rank, keyed_hash(claim_key, node << 32 | batch) >> 40, batch)
                claims[node] = min(claims.get(node, claim), claim)
        for node, (_, _, batch) in claims.items():
            self.owner[node] = batch
            self.count[batch] += 1
        for index in range(num_rounds):
            room = [self.free(batch) for batch in range(len(self.capacity))]
            is_growing = index + 1 < NUM_GROWTH_ROUNDS
            if is_growing:
                for batch, capacity in enumerate(self.capacity):
                    target = SEED_SIZE + max(0, capacity - SEED_SIZE) * (index + 1) // NUM_GROWTH_ROUNDS
                    room[batch] = min(room[batch], max(0, target - self.count[batch]))
            if not self.vote_round(self.hash_key(stage, FIRST_ROUND + index), room) and not is_growing:
                break

    def relocate(self, stage):
        """Of a random half, rows with more neighbours in another batch leave, vote again, or go back."""
        former, key = dict(self.owner), self.hash_key(stage, PICK_ROWS)
        for row, batch in former.items():
            row_hash = keyed_hash(key, row)
            if row_hash & 1 == 0:
                votes = [former[j] for j in self.asked(row, row_hash) if j in former]
                if any(votes.count(other) > votes.count(batch) for other in votes):
                    self.owner[row] = -1
                    self.count[batch] -= 1
        for index in range(NUM_RELOCATION_ROUNDS):
            room = [self.free(batch) for batch in range(len(self.capacity))]
            if not self.vote_round(self.hash_key(stage, FIRST_ROUND + index), room):
                break
        for row in self.unassigned():
            if self.free(former[row]) > 0:
                self.owner[row] = former[row]
                self.count[former[row]] += 1
        self.fill(stage)

    def fill(self, stage):
        """What is left goes to the open batches in hash order."""
        key = self.hash_key(stage, FILL)
        stuck = iter(sorted(self.unassigned(), key=lambda node: (keyed_hash(key, node), node)))
        for batch in range(len(self.capacity)):
            for _ in range(self.free(batch)):
                self.owner[next(stuck)] = batch
                self.count[batch] += 1

    def asked(self, node, node_hash):
        """Consecutive out-neighbours, from one that the hash picks."""
        row = self.neighbors[node]
        offset = (node_hash >> 32) * len(row) >> 32
        return [row[(offset + i) % len(row)] for i in range(min(MAX_VOTES, len(row)))]

    def seed_walk(self, batch, root, stage):
        """Unassigned nodes in the order a walk with restart meets them, the root first."""
        words = WordStream(self.seed, PARTITION_WALK, self.epoch, batch, stage)
        limit, found, node, fruitless = min(SEED_SIZE, self.free(batch)), [root], root, 0
        while len(found) < limit and fruitless < MAX_FRUITLESS:
            restart_word, neighbor_word = words.next(), words.next()
            if restart_word < self.threshold or not self.neighbors[node]:
                node = root
            fruitless += 1
            if row := self.neighbors[node]:
                node = row[neighbor_word * len(row) >> 32]
                if self.owner.get(node) == -1 and node not in found:
                    found.append(node)
                    fruitless = 0
        return found

    def vote_round(self, key, room):
        """Every unassigned node proposes to the batch with room that most neighbours are in; batches take the best."""
        proposals: dict[int, list[tuple[int, int, int]]] = {}
        for node in self.unassigned():
            node_hash = keyed_hash(key, node)
            votes = [b for b in (self.owner.get(j, -1) for j in self.asked(node, node_hash)) if b >= 0 and room[b] > 0]
            if votes:
                best = max(set(votes), key=lambda b: (votes.count(b), keyed_hash(node_hash, b)))
                rank = (-votes.count(best), keyed_hash(node_hash, MASK64) >> 8, node)
                proposals.setdefault(best, []).append(rank)
        for batch, ranks in proposals.items():
            accepted = sorted(ranks)[: room[batch]]
            for *_, node in accepted:
                self.owner[node] = batch
            self.count[batch] += len(accepted)
        return bool(proposals)
