"""Which instances are meant: ids of the loader, the bank and the labels agree, or it is found out."""

from __future__ import annotations

import collections
import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import (
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)
from torch.utils.data.distributed import DistributedSampler

from batchsampler_ext import (
    FeatureBank,
    GraphConfig,
    IndexedDataset,
    ProximityBatchSampler,
    batch_stats,
    knn_graph,
    proximity_graph,
    random_walk_with_restart,
    sample_batches,
)

N, DIM = 60, 4
ROWS = torch.randn(N, DIM, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % 5
FULL = TensorDataset(ROWS, LABELS)
ALL = GraphConfig(num_candidates=N - 1, num_neighbors=8)
SHUFFLED = torch.randperm(N, generator=torch.Generator().manual_seed(1)).tolist()


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(N))

    def __len__(self):
        return N


class Wrapper(Dataset):
    """A user's dataset around another one, which only transforms samples: nothing can be seen from outside."""

    def __init__(self, dataset):
        self.inner = dataset

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        return self.inner[index]


class Drawing(Sampler):
    """A user's sampler, which draws what it is given."""

    def __init__(self, draw):
        self.draw = draw

    def __iter__(self):
        return iter(self.draw())


def drawn_from(sampler, **options) -> list[int]:
    ours = ProximityBatchSampler(sampler, 8, bank=FeatureBank(N, DIM), **options)
    return sorted(i for batch in ours for i in batch)


# --- the sampler's first argument -------------------------------------------------------------------------------------
REFUSED = {
    "a smaller number": (50, ValueError, r"sampler: expected all 60 .*bank.num_instances\), got 50. .* range"),
    "a larger number": (61, ValueError, "sampler: expected all 60 instances .* got 61. Make a bank of as many rows"),
    "zero": (0, ValueError, "sampler: expected all 60 instances .* got 0"),
    "a number in a tensor": (torch.tensor(7), ValueError, "sampler: expected all 60 instances .* got 7"),
    "a Subset": (Subset(FULL, range(50)), ValueError, "sampler: expected all 60 .* got Subset of 50.*subset.indices"),
    "a split": (random_split(FULL, [50, 10])[0], ValueError, "sampler: expected all 60 instances .* got Subset of 50"),
    "a larger dataset": (ConcatDataset([FULL, FULL]), ValueError, "sampler: .* got ConcatDataset of 120"),
    "filtered samples": ([s for s in FULL if s[1] > 0], ValueError, "sampler: expected all 60 instances .* list of 48"),
    "positions that look like ids": (SequentialSampler([5, 7, 9]), ValueError, "sampler: expected all 60 .* list of 3"),
    "a random part": (RandomSampler(Subset(FULL, range(50))), ValueError, "sampler: expected all 60 .* Subset of 50"),
    "ranks of a part": (
        DistributedSampler(Subset(FULL, range(50)), num_replicas=1, rank=0), ValueError, "sampler: .* Subset of 50",
    ),
    "floats": (np.arange(50.0), ValueError, "sampler: expected all 60 instances .* got ndarray of 50"),
    "a stream": (Stream(), TypeError, "sampler: expected a dataset with __getitem__, got an IterableDataset, Stream"),
    "a chain": (ChainDataset([Stream()]), TypeError, "sampler: expected a dataset .* IterableDataset, ChainDataset"),
    "a part of a stream": (Subset(Stream(), range(60)), TypeError, "sampler: expected a dataset .* IterableDataset"),
    "a loader": (DataLoader(FULL, batch_size=1), TypeError, "sampler: expected a dataset, got a DataLoader.* batches"),
    "a dict": (dict.fromkeys(range(N)), TypeError, "sampler: expected a number, ids, a dataset .* got dict"),
    "columns": (collections.UserDict(x=ROWS), TypeError, "sampler: expected a number, ids, .* got UserDict"),
    "a name": ("x" * N, TypeError, "sampler: expected a number, ids, a dataset or a torch sampler, got str"),
    "bytes": (bytes(N), TypeError, "sampler: expected a number, ids, a dataset or a torch sampler, got bytes"),
    "names": ({str(i) for i in range(N)}, TypeError, "sampler: expected .* with __len__ and __getitem__ .* got set"),
    "an iterator": (iter(range(N)), TypeError, "sampler: expected .* with __len__ and .* got range_iterator"),
    "True": (True, TypeError, "sampler: expected .* got bool"),
    "a list of truth values": ([True] * N, TypeError, "sampler: expected ids, got a mask of booleans"),
    "a mask": (np.ones(N, dtype=bool), TypeError, "sampler: expected ids, got a mask of booleans"),
    "a mask in a sampler": (SubsetRandomSampler(LABELS > 0), TypeError, "sampler: expected ids, got a mask"),
    "repeated ids": ([3, 4, 3], ValueError, "sampler: expected distinct instances, got some more than once, such as 3"),
    "weights": (WeightedRandomSampler([1.0] * N, 50), TypeError, "sampler: .* got WeightedRandomSampler"),
    "changing draws": (
        Drawing(lambda: torch.randperm(N)[:30].tolist()), ValueError, "sampler: .* the same instances in every epoch",
    ),
    "endless draws": (Drawing(lambda: itertools.cycle(range(9))), ValueError, "sampler: expected distinct instances"),
    "drawn floats": (Drawing(lambda: [1.0, 2.0]), TypeError, "sampler: expected a sampler of instance ids.* 1.0"),
    "drawn batches": (Drawing(lambda: [[1], [2]]), TypeError, r"sampler: expected a sampler of instance ids.* \[1\]"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_may_be_meant_differently_is_refused_by_name(kind):
    sampler, error, message = REFUSED[kind]
    with pytest.raises(error, match=message):
        ProximityBatchSampler(sampler, 8, bank=FeatureBank(N, DIM))


TAKEN = {
    "the number": N,
    "the number in an array": np.int64(N),
    "samples": [(row, int(label)) for row, label in FULL],
    "tensors": list(ROWS),
    "arrays": list(ROWS.numpy()),
    "a matrix of integers": torch.zeros(N, 3, dtype=torch.int64),
    "texts": np.array(["a text"] * N),
    "a permutation": Subset(FULL, SHUFFLED),
    "nested parts": Subset(Subset(ConcatDataset([FULL, FULL]), range(10, 110)), range(0, 100)[:N]),
    "columns side by side": StackDataset(ROWS, LABELS),
    "named columns": StackDataset(x=ROWS, y=LABELS),
    "a user's dataset": Wrapper(FULL),
    "with the index": IndexedDataset(Subset(FULL, SHUFFLED)),
    "all ids": SHUFFLED,
    "a user's sampler": Drawing(lambda: SHUFFLED),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_a_dataset_as_large_as_the_bank_stands_for_all(kind):
    assert drawn_from(TAKEN[kind]) == list(range(N))


@pytest.mark.parametrize(
    "ids",
    [
        [3, 40, 7],
        {3, 40, 7},
        np.array([3, 40, 7], dtype=np.uint16),
        torch.tensor([3, 40, 7], dtype=torch.int32),
        [np.int64(3), torch.tensor(40), 7],
        SubsetRandomSampler([3, 40, 7]),
        SubsetRandomSampler(torch.tensor([3, 40, 7])),
        Drawing(lambda: [7, 3, 40]),
    ],
)
def test_ids_are_those_of_the_whole_dataset(ids):
    assert drawn_from(ids) == [3, 7, 40]


def test_data_are_not_read_to_find_out_whether_they_are_ids():
    class OnDisk:
        shape = (N, 3)

        def __len__(self):
            return N

        def __getitem__(self, index):
            raise AssertionError

        def __array__(self, dtype=None, copy=None):
            raise AssertionError

    assert drawn_from(OnDisk()) == list(range(N))


@pytest.mark.parametrize("hide", [lambda it: StackDataset(it, it), lambda it: Subset(it, range(40))])
def test_an_inner_index_is_found_in_nested_datasets(hide):
    part = Subset(IndexedDataset(FULL), range(N))
    with pytest.raises(ValueError, match="sampler: expected IndexedDataset around the Subset"):
        ProximityBatchSampler(hide(part), 8, bank=FeatureBank(N, DIM))
    assert drawn_from(IndexedDataset(Wrapper(part))) == list(range(N))  # the outer index counts


@pytest.mark.parametrize("dataset", [Stream(), ChainDataset([Stream()]), iter(range(3)), {1, 2}, 3])
def test_an_index_needs_positions(dataset):
    with pytest.raises(TypeError, match="dataset: expected a dataset with __len__ and __getitem__, got"):
        IndexedDataset(dataset)


@pytest.mark.parametrize("sampler", [N, range(20)])
@pytest.mark.parametrize("labels", [LABELS[:20], LABELS[:20].tolist(), LABELS[:20].numpy()])
def test_labels_have_a_place_for_each_row_of_the_bank(sampler, labels):
    message = r"labels: expected one for each of 60 instances of the bank \(bank.num_instances\), .* got 20"
    with pytest.raises(ValueError, match=message):
        ProximityBatchSampler(sampler, 8, bank=FeatureBank(N, DIM), graph=GraphConfig(labels=labels))


# --- recipes of the guide ---------------------------------------------------------------------------------------------
OUTER = Subset(FULL, SHUFFLED[:50])
PARTS = {
    "all": FULL,
    "subset": Subset(FULL, range(5, 45)),
    "permutation": Subset(FULL, SHUFFLED),
    "split": random_split(FULL, [0.7, 0.3], torch.Generator().manual_seed(2))[0],
    "nested": Subset(OUTER, range(42, 7, -1)),
    "filtered": [sample for sample in FULL if sample[1] != 3],
    "concatenated": ConcatDataset([Subset(FULL, range(40, 60)), Subset(FULL, range(20))]),
    "wrapped": Wrapper(Subset(FULL, SHUFFLED[:33])),
}


def train(sampler, loader, epochs=2):
    """Trains as the README does: the embedding of a sample is the sample."""
    bank = sampler.bank
    for _ in range(epochs):
        for indices, (rows, labels) in loader:
            bank.update(indices, rows)
            yield indices, labels


def require_no_edge_between_equal_labels(sampler, labels):
    graph = sampler.graph
    ids = torch.arange(len(graph)) if graph.ids is None else graph.ids
    has_edge = graph.neighbors >= 0
    pairs = labels[ids][:, None] == labels[graph.neighbors.clamp(min=0).long()]
    assert has_edge.any()
    assert not pairs[has_edge].any()


@pytest.mark.parametrize("part", PARTS)
def test_positions_of_the_loaders_dataset_are_rows_of_bank_and_labels(part):
    """The first recipe: everything is by position in the part that the loader gets."""
    dataset = PARTS[part]
    labels = torch.stack([label for _, label in dataset])
    bank = FeatureBank(len(dataset), DIM, dtype=torch.float32, normalize=False)
    config = GraphConfig(num_candidates=N, num_neighbors=8, labels=labels)
    sampler = ProximityBatchSampler(dataset, 8, bank=bank, graph=config)
    for indices, found in train(sampler, DataLoader(IndexedDataset(dataset), batch_sampler=sampler)):
        assert torch.equal(labels[indices], found)
    assert torch.equal(bank.data, torch.stack([row for row, _ in dataset]))
    require_no_edge_between_equal_labels(sampler, labels)


@pytest.mark.parametrize("wrap", [list, torch.tensor, np.array, SubsetRandomSampler])
def test_ids_of_the_whole_dataset_select_a_part(wrap):
    """The second recipe: loader, bank and labels are of the whole dataset, and the sampler draws ids of it."""
    outer = random_split(FULL, [0.7, 0.3], torch.Generator().manual_seed(2))[0]
    nested = Subset(outer, range(5, 35))
    ids = [outer.indices[i] for i in nested.indices]
    bank = FeatureBank(N, DIM, dtype=torch.float32, normalize=False)
    config = GraphConfig(num_candidates=N, num_neighbors=8, labels=LABELS)
    sampler = ProximityBatchSampler(wrap(ids), 8, bank=bank, graph=config)
    drawn = [indices for indices, _ in train(sampler, DataLoader(IndexedDataset(FULL), batch_sampler=sampler))]
    assert sorted(torch.cat(drawn).tolist()) == sorted(2 * ids)
    assert torch.equal(bank.data[ids], ROWS[ids])
    assert (bank.last_update >= 0).sum() == len(ids)
    require_no_edge_between_equal_labels(sampler, LABELS)


# --- updates by other ids ---------------------------------------------------------------------------------------------
def epochs_with(sampler, bank, ids_of, num_epochs=2, parts=1):
    """Trains with one update per batch, or several. ids_of: the ids that arrive with the samples of a batch."""
    for _ in range(num_epochs):
        for batch in sampler:
            for ids in torch.as_tensor(ids_of(batch)).chunk(parts):
                bank.update(ids, ROWS[ids % N])


MISMATCH = "in epoch 0, bank.update stored instance .*, which is never drawn, and not instance .*, which was drawn"
WRONG = {
    "shifted wholly": lambda ids: [i + 30 for i in ids],
    "shifted by half": lambda ids: [i + 15 for i in ids],
    "shifted at the end": lambda ids: [i + 10 if i >= 20 else i for i in ids],
}


@pytest.mark.parametrize("is_filled", [False, True])
@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"planner": "cover_by_walks"}])
@pytest.mark.parametrize("kind", WRONG)
def test_updates_of_instances_that_were_not_drawn_are_warned_of(kind, options, is_filled):
    bank = FeatureBank(N, DIM)
    if is_filled:
        bank.update(range(N), ROWS)
    sampler = ProximityBatchSampler(range(30), 4, bank=bank, graph=ALL, **options)
    with pytest.warns(UserWarning, match=MISMATCH):
        epochs_with(sampler, bank, WRONG[kind], num_epochs=1)


@pytest.mark.parametrize("parts", [1, 4])
def test_a_hidden_inner_index_is_warned_of(parts):
    dataset = Wrapper(Subset(IndexedDataset(FULL), range(25, 55)))
    bank = FeatureBank(N, DIM)
    sampler = ProximityBatchSampler(range(30), 4, bank=bank, graph=ALL)
    batches = iter(DataLoader(dataset, batch_sampler=sampler))
    for indices, (rows, _) in itertools.islice(batches, len(sampler)):
        for ids, embeddings in zip(indices.chunk(parts), rows.chunk(parts), strict=True):
            bank.update(ids, embeddings)
    with pytest.warns(UserWarning, match="stored instance 30, which is never drawn.*loader's outermost dataset"):
        list(batches)


# --- no false alarms: each warning is an error in these tests ---------------------------------------------------------
def plain_batches():
    """Endless batches of all instances, as of an ordinary loader."""
    while True:
        yield from torch.randperm(N).split(4)


class Loops:
    """Training loops that store embeddings in other ways than one update per batch. Each runs three epochs."""

    @staticmethod
    def as_the_readme(sampler, bank):
        epochs_with(sampler, bank, lambda ids: ids, 3)

    @staticmethod
    def without_updates(sampler, bank):
        bank.update(range(N), ROWS)
        for _ in range(3):
            list(sampler)

    @staticmethod
    def with_another_refresh_of_all(sampler, bank):
        for _ in range(3):
            list(sampler)
            bank.update(range(N), ROWS)

    @staticmethod
    def ended_in_the_middle(sampler, bank):
        for _ in range(3):
            for batch in itertools.islice(sampler, 3):
                bank.update(batch, ROWS[batch])

    @staticmethod
    def of_every_second_batch(sampler, bank):
        for _ in range(3):
            for i, batch in enumerate(sampler):
                if i % 2:
                    bank.update(batch, ROWS[batch])

    @staticmethod
    def in_micro_batches(sampler, bank):
        epochs_with(sampler, bank, lambda ids: ids, 3, parts=3)

    @staticmethod
    def of_two_batches_at_once(sampler, bank):
        for _ in range(3):
            batches = list(sampler)
            for first in range(0, len(batches), 2):
                ids = [i for batch in batches[first : first + 2] for i in batch]
                bank.update(ids, ROWS[ids])

    @staticmethod
    def of_two_views(sampler, bank):
        for _ in range(3):
            for batch in sampler:
                bank.update(batch, ROWS[batch])
                bank.update(batch, -ROWS[batch])

    @staticmethod
    def beside_a_plain_loader(sampler, bank):
        plain = plain_batches()
        for _ in range(3):
            for batch in sampler:
                ids = torch.cat([torch.tensor(batch), next(plain)])
                bank.update(ids, ROWS[ids])

    @staticmethod
    def in_turns_with_a_plain_loader(sampler, bank):
        plain = plain_batches()
        for _ in range(3):
            for batch in sampler:
                for ids in (torch.tensor(batch), next(plain)):
                    bank.update(ids, ROWS[ids])

    @staticmethod
    def after_epochs_of_a_plain_loader(sampler, bank):
        for ids in itertools.islice(plain_batches(), 30):
            bank.update(ids, ROWS[ids])
        epochs_with(sampler, bank, lambda ids: ids, 3)

    @staticmethod
    def in_another_order(sampler, bank):
        for _ in range(3):
            batches = list(sampler)
            for window in (batches[first : first + 4] for first in range(0, len(batches), 4)):
                for batch in reversed(window):
                    bank.update(batch, ROWS[batch])

    @staticmethod
    def behind_a_prefetcher(sampler, bank):
        """The next epoch begins while a batch of the one before is not trained yet."""
        endless = itertools.chain.from_iterable(sampler for _ in range(3))
        waiting = collections.deque()
        for batch in endless:
            waiting.append(batch)
            if len(waiting) > 2:
                ids = waiting.popleft()
                bank.update(ids, ROWS[ids])

    @staticmethod
    def after_a_look_at_the_next_epoch(sampler, bank):
        bank.update(range(N), ROWS)
        for _ in range(3):
            batches = iter(sampler)
            first = next(batches)
            next(iter(sampler))
            for batch in itertools.chain([first], batches):
                bank.update(batch, ROWS[batch])

    @staticmethod
    def of_another_sampler(sampler, bank):
        """An epoch is only looked at, and another sampler of the bank trains as many batches."""
        other = ProximityBatchSampler(range(30, 60), 4, bank=bank, graph=ALL)
        bank.update(range(N), ROWS)
        for _ in range(3):
            list(sampler)
            for batch in other:
                bank.update(batch, ROWS[batch])

    @staticmethod
    def alternately_with_another_sampler(sampler, bank):
        other = ProximityBatchSampler(range(30, 60), 4, bank=bank, graph=ALL)
        for _ in range(3):
            for pair in zip(sampler, other, strict=False):
                for batch in pair:
                    bank.update(batch, ROWS[batch])

    @staticmethod
    def with_rows_that_are_skipped(sampler, bank):
        for _ in range(3):
            for batch in sampler:
                rows = ROWS[batch].clone()
                rows[0] = float("nan")
                bank.update(batch, rows)

    @staticmethod
    def with_refreshes(sampler, bank):
        for _ in range(3):
            for i, batch in enumerate(sampler):
                bank.update(batch, ROWS[batch])
                if i % 3 == 1:
                    sampler.refresh()

    @staticmethod
    def from_a_loaded_state(sampler, bank):
        bank.update(range(N), ROWS)
        first = {name: torch.clone(v) if isinstance(v, torch.Tensor) else v for name, v in bank.state_dict().items()}
        state = sampler.state_dict()
        for _ in range(3):
            epochs_with(sampler, bank, lambda ids: ids, 1)
            bank.load_state_dict(first)
        epochs_with(sampler, bank, lambda ids: ids, 1)
        sampler.load_state_dict(state)
        bank.load_state_dict(first)
        epochs_with(sampler, bank, lambda ids: ids, 1)

    @staticmethod
    def resumed_in_the_middle(sampler, bank):
        for batch in itertools.islice(sampler, 3):
            bank.update(batch, ROWS[batch])
        sampler.load_state_dict(sampler.state_dict())
        epochs_with(sampler, bank, lambda ids: ids, 3)


@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"planner": "walks"}, {"planner": "cover_by_walks"}])
@pytest.mark.parametrize("loop", [name for name in vars(Loops) if not name.startswith("_")])
def test_no_other_loop_is_warned_of(loop, options):
    bank = FeatureBank(N, DIM, nonfinite="skip")
    refresh = {"refresh_every": 3} if "planner" in options else {}
    sampler = ProximityBatchSampler(range(30), 4, bank=bank, graph=ALL, **refresh, **options)
    getattr(Loops, loop)(sampler, bank)


@pytest.mark.parametrize("num_replicas", [2, 3, 4])
def test_padding_of_ranks_is_not_warned_of(num_replicas):
    """One process plays all ranks, and stores what they would gather."""
    bank = FeatureBank(N, DIM)
    ranks = [
        ProximityBatchSampler(range(31), 2, bank=bank, graph=ALL, rank=rank, num_replicas=num_replicas)
        for rank in range(num_replicas)
    ]
    for _ in range(3):
        for batches in zip(*ranks, strict=True):
            ids = [i for batch in batches for i in batch]
            bank.update(ids, ROWS[ids])


# --- functions without a loop -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [list(range(50, 20, -1)), SHUFFLED[:30]])
def test_ids_of_a_part_are_those_of_all_features(rows):
    """Batches, walks and labels of a graph over rows are by instance id, not by row of the graph."""
    other = {int(i) for i in rows}
    for build in (proximity_graph, knn_graph):
        graph = build(ROWS, 8, rows=rows, labels=LABELS)
        assert set(graph.neighbors.ravel().tolist()) <= other
        assert not (LABELS[graph.neighbors.long()] == LABELS[graph.ids][:, None]).any()
        assert graph.ids.tolist() == rows
        for planner in ("partition", "uniform"):
            batches = sample_batches(graph, 7, planner=planner)
            assert sorted(int(i) for batch in batches for i in batch) == sorted(other)
        for planner in ("walks", "cover_by_walks"):
            assert {int(i) for batch in sample_batches(graph, 7, planner=planner) for i in batch} <= other
        walks = random_walk_with_restart(graph, rows[:5], 6)
        assert walks.nodes[:, 0].tolist() == rows[:5]
        assert set(walks.nodes.ravel().tolist()) <= other
        shares = batch_stats(sample_batches(graph, 7), ROWS, labels=LABELS, graph=graph)
        assert shares["edge_share"] > 0
    outside = next(i for i in range(N) if i not in other)
    with pytest.raises(ValueError, match=f"roots: expected ids of the graph's rows, got {outside}"):
        random_walk_with_restart(graph, [outside], 4)
    with pytest.raises(ValueError, match="labels: expected one for each of 60 instances, got 30"):
        proximity_graph(ROWS, 8, rows=rows, labels=LABELS[rows])


LABELS_IN_THE_GUIDE = {
    "subset": (Subset(FULL, SHUFFLED[:40]), LABELS[SHUFFLED[:40]]),
    "nested": (Subset(Subset(FULL, SHUFFLED[:40]), range(30, 3, -1)), LABELS[SHUFFLED[:40]][list(range(30, 3, -1))]),
    "concatenated": (ConcatDataset([Subset(FULL, [4, 1]), FULL]), torch.cat([LABELS[[4, 1]], LABELS])),
}


@pytest.mark.parametrize("part", LABELS_IN_THE_GUIDE)
def test_labels_of_a_part_are_as_the_guide_says(part):
    dataset, labels = LABELS_IN_THE_GUIDE[part]
    assert labels.tolist() == [int(label) for _, label in dataset]


def test_positions_of_graphs_in_a_part_are_those_of_the_loader():
    """PyTorch Geometric: dataset[ids] is a dataset of its own."""
    geometric = pytest.importorskip("torch_geometric")

    class Graphs(geometric.data.InMemoryDataset):
        def __init__(self):
            super().__init__(None)
            graphs = [geometric.data.Data(x=row[None], y=label[None]) for row, label in FULL]
            self.data, self.slices = self.collate(graphs)

    part = Graphs()[torch.tensor(SHUFFLED[:40])]
    with pytest.raises(ValueError, match="sampler: expected all 60 instances .* got Graphs of 40"):
        ProximityBatchSampler(part, 8, bank=FeatureBank(N, DIM))
    labels = torch.cat([graph.y for graph in part])
    bank = FeatureBank(len(part), DIM, dtype=torch.float32, normalize=False)
    sampler = ProximityBatchSampler(part, 8, bank=bank, graph=GraphConfig(num_candidates=N, labels=labels))
    for _ in range(2):
        for indices, graphs in geometric.loader.DataLoader(IndexedDataset(part), batch_sampler=sampler):
            assert torch.equal(labels[indices], graphs.y)
            bank.update(indices, graphs.x)
    assert torch.equal(bank.data, ROWS[SHUFFLED[:40]])
    require_no_edge_between_equal_labels(sampler, labels)
