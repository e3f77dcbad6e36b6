"""The oracle of partitions: every row is in exactly one batch.

Short walks seed all batches at once. Batches grow by votes of neighbors within a limited capacity. Then they harden or
soften until their excess edge share is close to a goal derived from independent walks. docs/partition.md describes the
steps and explains the share. All numbers are integers, and a round reads the state at its start only. So the result
does not depend on the order of work.
The CPU engine is csrc/cpu/partition/partition.cpp.
"""

from __future__ import annotations

from ..reference import (
    MASK64,
    PARTITION_HASH,
    PARTITION_WALK,
    ROOT_ORDER,
    WordStream,
    keyed_permutation,
    mix,
    philox4x32,
    restart_threshold,
    walk_batch,
)

SEED_SIZE, MAX_UNPRODUCTIVE = 4, 64  # rows that a seed walk collects; it ends after so many steps without a new row
# Neighbors that a row looks up: at most; if it found no batch last time; to soften. Rounds end when at most one row in
# FEW_PROPOSALS proposes.
MAX_VOTES, FEW_VOTES, SOFT_VOTES, FEW_PROPOSALS = 128, 16, 2, 32
NUM_VOTE_ROUNDS, NUM_GROWTH_ROUNDS, NUM_DISSOLVES = 12, 4, 2
NUM_RESEEDS, NUM_RESEED_ROUNDS, NUM_ADJUST_ROUNDS = 32, 6, 6
MAX_HARDENINGS, MAX_SOFTENINGS = 2, 24
HARDEN_MASK, SOFTEN_MASK = 3, 7  # a row takes part if these bits of its hash are 0
NUM_MEASURED, NUM_MEASURED_WALKS, NUM_MEASURED_MEMBERS = 4096, 64, 64  # for edge shares: rows; walks, members of each
WHOLE = 1 << 20  # an edge share of one
LOW_EDGE_SHARE = WHOLE // 10  # while the excess edge share is below it, hard batches harden again
PICK_ROWS, CLAIM, FILL, ORDER, FIRST_ROUND = range(5)  # purposes of the hashes of a stage
FILL_STAGE = 1 + NUM_DISSOLVES + NUM_RESEEDS


def mix64(x: int) -> int:
    return mix(x, MASK64, (30, 27, 31), (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def keyed_hash(key: int, value: int) -> int:
    return mix64((key + value * 0x9E3779B97F4A7C15) & MASK64)


def uniform_partition(num_instances, batch_size, *, drop_last=False, seed=0, epoch=0):
    """Returns (full batches, tail) of a shuffled epoch."""
    order = keyed_permutation(num_instances, seed, ROOT_ORDER, epoch)
    num_full = num_instances // batch_size
    batches = [order[b * batch_size : (b + 1) * batch_size] for b in range(num_full)]
    return batches, [] if drop_last else order[num_full * batch_size :]


def partition(neighbors, batch_size, *, hardness="default", restart_prob=0.2, drop_last=False, seed=0, epoch=0):
    """Returns (full batches, tail) of a partition. Batches list their rows in ascending order."""
    return _Partition(neighbors, batch_size, hardness, restart_prob, drop_last, seed, epoch).run()


class _Partition:
    def __init__(self, neighbors, batch_size, hardness, restart_prob, drop_last, seed, epoch):
        self.table, self.hardness, self.restart_prob = neighbors, hardness, restart_prob
        self.neighbors = [[int(j) for j in row if j >= 0] for row in neighbors]
        self.batch_size, self.threshold = batch_size, restart_threshold(restart_prob)
        self.seed, self.epoch = seed, epoch
        n = len(self.neighbors)
        order = keyed_permutation(n, seed, ROOT_ORDER, epoch)
        num_left_out = n % batch_size if drop_last else 0
        self.left_out = set(order[n - num_left_out :])
        self.num_assigned = n - num_left_out
        self.capacity = [
            min(batch_size, self.num_assigned - first) for first in range(0, self.num_assigned, batch_size)
        ]
        self.order = order
        self.owner = {node: -1 for node in range(n) if node not in self.left_out}
        self.count = [0] * len(self.capacity)
        self.stranded: set[int] = set()  # rows that found no batch in the last round

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
            if num_stuck * 500 <= self.num_assigned:
                break
            open_batches = [b for b in range(num_batches) if self.free(b) > 0]
            batches = self.emptiest(open_batches, max(1, num_stuck // 8))
            self.grow(batches, self.pick_roots(len(batches), stage), stage, NUM_RESEED_ROUNDS)
            if (num_stuck - len(self.unassigned())) * 50 < num_stuck:
                break

        self.fill(FILL_STAGE)
        self.adjust(FILL_STAGE)

        key = self.hash_key(FILL_STAGE, ORDER)
        members: list[list[int]] = [[] for _ in range(num_batches)]
        for node, batch in self.owner.items():
            members[batch].append(node)
        full = [b for b in range(num_batches) if self.capacity[b] == self.batch_size]
        full.sort(key=lambda b: (keyed_hash(key, b), b))
        tail = members[-1] if num_batches > len(full) else []
        return [members[b] for b in full], tail

    def pick_roots(self, num, stage):
        """Returns distinct random unassigned rows."""
        key = self.hash_key(stage, PICK_ROWS)
        return sorted(self.unassigned(), key=lambda node: (keyed_hash(key, node), node))[:num]

    def grow(self, batches, roots, stage, num_rounds):
        """Seeds batches by walks from the roots, whose rows go to the best claim. Then votes until few rows propose."""
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
            if not self.vote_round(self.hash_key(stage, FIRST_ROUND + index), room, MAX_VOTES) and not is_growing:
                break

    def adjust(self, stage):
        """Hardens batches while the excess edge share is below its goal, then softens them while it is above."""
        if len(self.capacity) < 2:
            return
        goal = WHOLE if self.hardness == "hard" else self.edge_share_goal()
        for limit in (goal, LOW_EDGE_SHARE) if self.hardness == "hard" else (goal,):
            for _ in range(MAX_HARDENINGS):
                if self.edge_share() >= limit:
                    break
                stage += 1
                self.move(stage, HARDEN_MASK, MAX_VOTES, self.prefers_another)
        for _ in range(MAX_SOFTENINGS):
            if self.edge_share() <= goal:
                break
            stage += 1
            self.move(stage, SOFTEN_MASK, SOFT_VOTES, lambda node, node_hash: True)

    def edge_share_goal(self):
        """Returns the goal for the excess edge share, from walks whose roots are the first rows of the order."""
        num_instances = len(self.neighbors)
        size = min(self.batch_size, num_instances)
        inside = asked = 0
        for walk in range(min(NUM_MEASURED_WALKS, num_instances // size)):
            members = walk_batch(
                self.table, self.order[walk], size, strategy="rwr", restart_prob=self.restart_prob,
                seed=self.seed, epoch=self.epoch, walk=walk,
            )  # fmt: skip
            for node in members[:: -(-size // NUM_MEASURED_MEMBERS)]:
                row = self.neighbors[node][:MAX_VOTES]
                inside, asked = inside + sum(j in members for j in row), asked + len(row)
        goal = self.beyond_random(inside, asked) * 3 // 4 + WHOLE // 50
        return goal // 2 if self.hardness == "soft" else goal

    def edge_share(self):
        """Returns the excess edge share of the batches, in units of 1 / WHOLE."""
        inside = asked = 0
        for node in self.order[max(0, self.num_assigned - NUM_MEASURED) : self.num_assigned]:
            row = self.neighbors[node][:MAX_VOTES]
            inside += sum(self.owner.get(j) == self.owner[node] for j in row)
            asked += len(row)
        return self.beyond_random(inside, asked)

    def beyond_random(self, inside, asked):
        """Returns the edge share minus that of a random batch, in units of 1 / WHOLE; 0 if it is negative."""
        if asked == 0:
            return 0
        return max(0, WHOLE * inside // asked - WHOLE * self.batch_size // len(self.neighbors))

    def prefers_another(self, node, node_hash):
        votes = [self.owner[j] for j in self.asked(node, node_hash, MAX_VOTES) if j in self.owner]
        return any(votes.count(other) > votes.count(self.owner[node]) for other in votes)

    def move(self, stage, mask, max_votes, leaves):
        """Examines a random share of the rows. Those that leave vote again, and return if they find no batch."""
        former, key = dict(self.owner), self.hash_key(stage, PICK_ROWS)
        picked = [node for node in former if keyed_hash(key, node) & mask == 0]
        leaving = [node for node in picked if leaves(node, keyed_hash(key, node))]
        for node in leaving:
            self.owner[node] = -1
            self.count[former[node]] -= 1
        for index in range(NUM_ADJUST_ROUNDS):
            room = [self.free(batch) for batch in range(len(self.capacity))]
            if not self.vote_round(self.hash_key(stage, FIRST_ROUND + index), room, max_votes):
                break
        for node in self.unassigned():
            if self.free(former[node]) > 0:
                self.owner[node] = former[node]
                self.count[former[node]] += 1
        self.fill(stage)

    def fill(self, stage):
        """Gives the unassigned rows to the open batches in hash order."""
        key = self.hash_key(stage, FILL)
        stuck = iter(sorted(self.unassigned(), key=lambda node: (keyed_hash(key, node), node)))
        for batch in range(len(self.capacity)):
            for _ in range(self.free(batch)):
                self.owner[next(stuck)] = batch
                self.count[batch] += 1

    def asked(self, node, node_hash, num_asked):
        """Returns consecutive neighbors, from one that the hash picks."""
        row = self.neighbors[node]
        offset = (node_hash >> 32) * len(row) >> 32
        return [row[(offset + i) % len(row)] for i in range(min(num_asked, len(row)))]

    def seed_walk(self, batch, root, stage):
        """Returns unassigned rows in the order in which a walk with restart meets them, the root first."""
        words = WordStream(self.seed, PARTITION_WALK, self.epoch, batch, stage)
        limit, found, node, unproductive = min(SEED_SIZE, self.free(batch)), [root], root, 0
        while len(found) < limit and unproductive < MAX_UNPRODUCTIVE:
            restart_word, neighbor_word = words.next(), words.next()
            if restart_word < self.threshold or not self.neighbors[node]:
                node = root
            unproductive += 1
            if row := self.neighbors[node]:
                node = row[neighbor_word * len(row) >> 32]
                if self.owner.get(node) == -1 and node not in found:
                    found.append(node)
                    unproductive = 0
        return found

    def vote_round(self, key, room, max_votes):
        """Every unassigned row proposes to the batch with room that has most of its neighbors. Batches take the best.

        Returns whether more than one row in FEW_PROPOSALS has proposed.
        """
        proposals: dict[int, list[tuple[int, int, int]]] = {}
        for node in self.unassigned():
            node_hash = keyed_hash(key, node)
            num_asked = min(FEW_VOTES, max_votes) if node in self.stranded else max_votes
            votes = [self.owner.get(j, -1) for j in self.asked(node, node_hash, num_asked)]
            votes = [batch for batch in votes if batch >= 0 and room[batch] > 0]
            if not votes:
                self.stranded.add(node)
            else:
                self.stranded.discard(node)
                best = max(set(votes), key=lambda b: (votes.count(b), keyed_hash(node_hash, b)))
                rank = (-votes.count(best), keyed_hash(node_hash, MASK64) >> 8, node)
                proposals.setdefault(best, []).append(rank)
        num_asking = len(self.unassigned())
        for batch, ranks in proposals.items():
            accepted = sorted(ranks)[: room[batch]]
            for *_, node in accepted:
                self.owner[node] = batch
            self.count[batch] += len(accepted)
        return sum(map(len, proposals.values())) * FEW_PROPOSALS > num_asking
