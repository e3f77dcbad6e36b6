"""The oracle of communities(): every row is in exactly one community, and many edges stay inside communities.

Multilevel, as in METIS (Karypis, Kumar 1998). Rows join clusters of limited weight by label propagation (Meyerhenke,
Sanders, Schulz 2014). A cluster is a node of the next, coarser graph. Clusters of the coarsest graph are packed into
the communities. From the coarsest graph to the rows, nodes then move to the community that most of their edges lead to.
docs/partition.md describes the steps. All numbers are integers, and a round reads the state at its start only. So the
result does not depend on the order of work.
The CPU engine is csrc/cpu/partition/communities.cpp.
"""

from __future__ import annotations

from ..reference import MASK64
from .partition import keyed_hash

GROWTH = 4  # clusters of the next level may weigh so many times as much
NUM_CLUSTER_ROUNDS, NUM_COARSE_ROUNDS, NUM_ROW_ROUNDS, NUM_LAST_ROUNDS = 12, 4, 24, 2
NUM_CALM_ROUNDS = 3  # rounds of rows at the end in which rows only move
PACKED_SHARE = 16  # clusters of at least 1/16 of a community are packed
SCORE_SHIFT = 20  # scores of clusters are votes per weight, in units of 2**-20


def communities(neighbors, size, key):
    """Returns (full communities, tail). Communities list their rows in ascending order.

    neighbors: rows of the neighbors of each row, -1 is none. size: rows of a community. key: of all hashes, 64 bits.
    """
    return _Communities(neighbors, size, key).run()


class _Level:
    """A graph. edges: {other node: weight} of each node. weights: number of rows of each node."""

    def __init__(self, edges, weights):
        self.edges, self.weights, self.nodes = edges, weights, range(len(weights))


class _Communities:
    def __init__(self, neighbors, size, key):
        edges: list[dict[int, int]] = [{} for _ in neighbors]
        for row, others in enumerate(neighbors):
            for other in (int(j) for j in others if j >= 0 and j != row):
                edges[row][other] = edges[row].get(other, 0) + 1
        self.level = _Level(edges, [1] * len(edges))
        self.size, self.key, self.num_keys = size, key, 0
        self.num_rows = len(edges)
        self.capacity = [min(size, self.num_rows - first) for first in range(0, self.num_rows, size)]

    def next_key(self):
        self.num_keys += 1
        return keyed_hash(self.key, self.num_keys)

    def run(self):
        levels, clusters_of_levels, limit = [self.level], [], 1
        while limit < self.size:
            limit = min(limit * GROWTH, self.size)
            clusters_of_levels.append(self.clusters(levels[-1], limit))
            levels.append(contracted(levels[-1], clusters_of_levels[-1]))
        clusters_of_levels.append(self.clusters(levels[-1], self.size))  # small clusters that fit together join
        levels.append(contracted(levels[-1], clusters_of_levels[-1]))

        owner = [-1] * len(levels[-1].nodes)
        self.pack(levels[-1], owner)
        for depth in reversed(range(1, len(levels))):
            self.refine(levels[depth], owner, NUM_COARSE_ROUNDS, unsettles=False)
            owner = [owner[cluster] for cluster in clusters_of_levels[depth - 1]]
        self.refine(levels[0], owner, NUM_ROW_ROUNDS, unsettles=True)
        self.fill(owner)
        self.refine(levels[0], owner, NUM_LAST_ROUNDS, unsettles=False)

        key = self.next_key()
        members: list[list[int]] = [[] for _ in self.capacity]
        for row, community in enumerate(owner):
            members[community].append(row)
        full = [c for c, capacity in enumerate(self.capacity) if capacity == self.size]
        full.sort(key=lambda c: (keyed_hash(key, c), c))
        return [members[c] for c in full], [] if len(full) == len(members) else members[-1]

    def clusters(self, level, limit):
        """Returns the cluster of each node, numbered in the order of their first nodes. At first, each node is one."""
        owner = list(level.nodes)
        for _ in range(NUM_CLUSTER_ROUNDS):
            move_round(level, owner, [limit] * len(owner), self.next_key(), is_clustering=True)
        numbers: dict[int, int] = {}
        return [numbers.setdefault(cluster, len(numbers)) for cluster in owner]

    def pack(self, level, owner):
        """Puts heavy clusters into communities, heaviest first. Each of the first opens a community.

        Others go where most of their edges lead to and they fit, ties by the least room that is left.
        """
        key, room, num_open = self.next_key(), list(self.capacity), 0
        for node in sorted(level.nodes, key=lambda v: (-level.weights[v], keyed_hash(key, v), v)):
            weight = level.weights[node]
            if weight == 1 or weight * PACKED_SHARE < self.size:
                continue
            if num_open < len(room) and weight <= room[num_open]:
                owner[node] = num_open
                num_open += 1
            else:
                votes = votes_of(level, owner, node)
                fitting = [(-votes.get(c, 0), free, c) for c, free in enumerate(room) if free >= weight]
                owner[node] = min(fitting)[-1] if fitting else -1
            if owner[node] >= 0:
                room[owner[node]] -= weight

    def refine(self, level, owner, num_rounds, unsettles):
        """Moves nodes. Every second round also unsettles rows, but not the last ones.

        Rows then displace others. After that, rows without an edge to their community leave it.
        """
        for index in range(num_rounds):
            now = unsettles and index % 2 == 1 and index + NUM_CALM_ROUNDS < num_rounds
            move_round(level, owner, self.capacity, self.next_key(), is_clustering=False, displaces=now)
            if now:
                before = list(owner)
                for node in level.nodes:
                    if all(before[other] != before[node] for other in level.edges[node]):
                        owner[node] = -1

    def fill(self, owner):
        """Gives the rows without a community to the open communities in hash order."""
        key = self.next_key()
        room = list(self.capacity)
        for community in owner:
            if community >= 0:
                room[community] -= 1
        places = (c for c, free in enumerate(room) for _ in range(free))
        stuck = [row for row, community in enumerate(owner) if community < 0]
        for row in sorted(stuck, key=lambda row: (keyed_hash(key, row), row)):
            owner[row] = next(places)


def contracted(level, clusters):
    """Returns the graph of the clusters. Edges inside a cluster are dropped, parallel edges become one."""
    num_clusters = max(clusters) + 1
    edges: list[dict[int, int]] = [{} for _ in range(num_clusters)]
    weights = [0] * num_clusters
    for node in level.nodes:
        cluster = clusters[node]
        weights[cluster] += level.weights[node]
        for other, weight in level.edges[node].items():
            if clusters[other] != cluster:
                edges[cluster][clusters[other]] = edges[cluster].get(clusters[other], 0) + weight
    return _Level(edges, weights)


def votes_of(level, owner, node):
    """Returns the total weight of the edges of a node to each group."""
    votes: dict[int, int] = {}
    for other, weight in level.edges[node].items():
        if owner[other] >= 0:
            votes[owner[other]] = votes.get(owner[other], 0) + weight
    return votes


def move_round(level, owner, capacity, key, is_clustering, displaces=False):
    """Nodes propose to move to the group with the best score; the proposals that fit together are carried out.

    Each group keeps its best proposals, as many as fit if the nodes that it loses have left. If another group drops a
    proposal, a node stays, so a group may have to drop more. The largest set of proposals that fits does not depend on
    the order in which groups drop them. To cluster, a random half of the nodes proposes.

    displaces: rows whose proposals were dropped then displace members that stay, the best proposal that with the fewest
    votes for the group and so on, while the gain is larger than these votes. Displaced rows are in no group.
    """
    loads = [0] * len(capacity)
    for node, group in enumerate(owner):
        if group >= 0:
            loads[group] += level.weights[node]
    kept: list[list[tuple[int, int, int]]] = [[] for _ in capacity]
    dropped: list[list[tuple[int, int, int]]] = [[] for _ in capacity]
    for node in level.nodes:
        node_hash = keyed_hash(key, node)
        if is_clustering and node_hash & 1:
            continue
        best, gain = proposal(level, owner, loads, capacity, node, node_hash, is_clustering)
        if best >= 0:
            kept[best].append((-gain, keyed_hash(node_hash, MASK64), node))
    for group, proposals in enumerate(kept):
        proposals.sort()
        for *_, node in proposals:
            loads[group] += level.weights[node]
            if owner[node] >= 0:
                loads[owner[node]] -= level.weights[node]
    while full := [group for group, load in enumerate(loads) if load > capacity[group]]:
        for group in full:
            dropped[group].append(kept[group].pop())
            node = dropped[group][-1][-1]
            loads[group] -= level.weights[node]
            if owner[node] >= 0:
                loads[owner[node]] += level.weights[node]
    former = list(owner)
    if displaces:
        moving = {node for proposals in kept for *_, node in proposals}
        for group, proposals in enumerate(dropped):
            staying = [node for node in level.nodes if former[node] == group and node not in moving]
            votes = {node: votes_of(level, former, node).get(group, 0) for node in staying}
            staying.sort(key=lambda node: (votes[node], keyed_hash(keyed_hash(key, node), MASK64), node))
            for (loss, _, node), displaced in zip(reversed(proposals), staying):
                if -loss <= votes[displaced]:
                    break
                kept[group].append((loss, 0, node))
                owner[displaced] = -1
    for group, proposals in enumerate(kept):
        for *_, node in proposals:
            owner[node] = group


def proposal(level, owner, loads, capacity, node, node_hash, is_clustering):
    """Returns (group, gain) of the best group that the node may move to, (-1, 0) if there is none.

    The score of a group is the weight of the edges to it. To cluster, it is relative to the weight of the group with
    the node. A move must not lower the score. Ties go to the larger hash.
    """
    own, weight = owner[node], level.weights[node]
    votes = votes_of(level, owner, node)
    own_score = votes.pop(own, 0)
    if is_clustering:
        own_score = (own_score << SCORE_SHIFT) // loads[own]
    scores = {}
    for group, count in votes.items():
        if weight <= capacity[group]:
            scores[group] = (count << SCORE_SHIFT) // (loads[group] + weight) if is_clustering else count
    best = max(scores, key=lambda group: (scores[group], keyed_hash(node_hash, group)), default=-1)
    if best < 0 or scores[best] < own_score:
        return -1, 0
    return best, scores[best] - own_score
