"""Banks and samplers on a device equal those on the CPU to the bit (see test_cuda_graph.py for where they run)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.distributed

from batchsampler_ext import FeatureBank, GraphConfig, ProximityBatchSampler, WalkPlanner

NAN, INF = float("nan"), float("inf")


def scaled_rows(count: int, dim: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of very different norms; one is zero."""
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    rows *= torch.logspace(-8, 4, count)[:, None]
    rows[count // 2] = 0
    return rows.to(dtype)


def assert_equal(found: FeatureBank, expected: FeatureBank) -> None:
    found.check()
    assert torch.equal(found.last_update.cpu(), expected.last_update.cpu())
    for name in ("data", "documents"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            kind = torch.int32 if b.dtype == torch.float32 else torch.int16
            assert torch.equal(a.cpu().view(kind), b.cpu().view(kind))
    for name in ("step", "missing_embedding_share", "num_skipped"):
        assert getattr(found, name) == getattr(expected, name)


def assert_same(device_engine, updates, num_instances: int, dim: int, **options) -> None:
    """Asserts equal banks on the CPU and on the device, after updates (indices, embeddings, documents or None)."""
    expected = FeatureBank(num_instances, dim, **options)
    for update in updates:
        expected.update(*update)
    with device_engine() as device:
        found = FeatureBank(num_instances, dim, device=device, **options)
        for ids, *rows in updates:
            found.update(ids, *(None if part is None else part.to(device) for part in rows))
        assert found.data.device.type == device.type
        assert_equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("dim", [1, 7, 8, 9, 130])
def test_updates_equal_the_cpu(device_engine, dtype, normalize, momentum, dim):
    """Two towers, duplicates of new and of known instances, and 33 rows, one more than a warp's lanes."""
    first, second = torch.arange(33), torch.tensor([40, 7, 3, 40, 3, 59, 3])
    updates = [
        (ids, scaled_rows(len(ids), dim, i), scaled_rows(len(ids), dim, i + 9)) for i, ids in enumerate([first, second])
    ]
    assert_same(device_engine, updates, 60, dim, two_towers=True, dtype=dtype, normalize=normalize, momentum=momentum)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", ["dense", "columns", "expanded"])
def test_embeddings_of_other_dtypes_and_layouts_equal_the_cpu(device_engine, dtype, layout):
    rows = scaled_rows(9, 12, 0).clamp(-6e4, 6e4).to(dtype)
    if layout == "columns":
        rows = rows.t().contiguous().t()
    elif layout == "expanded":
        rows = rows[3:4].expand(9, 12)
    assert_same(device_engine, [(list(range(9)), rows), ([], rows[:0])], 10, 12, dtype=torch.float32)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_last_finite_duplicate_wins(device_engine, momentum):
    """Claims on rows by earlier updates are out of date."""
    generator = torch.Generator().manual_seed(2)
    updates = []
    for step in range(4):
        rows = torch.randn(300, 3, generator=generator)
        rows[torch.rand(300, generator=generator) < 0.3, 1] = (NAN, INF)[step % 2]
        updates.append((torch.randint(0, 12, (300,), generator=generator), rows))
    assert_same(device_engine, updates, 12, 3, momentum=momentum, nonfinite="skip")


def test_rounding_to_16_bits_equals_the_cpu(device_engine):
    """Every seventh 16-bit value, the midpoints between them, and the next float32 above each midpoint."""
    for dtype in (torch.bfloat16, torch.float16):
        values = torch.arange(-(2**15), 2**15, 7, dtype=torch.int32).to(torch.int16).view(dtype).float()
        values = values[values.isfinite()].sort().values
        middles = values.double().mul(0.5).add(values.double().roll(1).mul(0.5)).float()[1:]
        inputs = torch.cat([values, middles, torch.nextafter(middles, values.max())])[:, None]
        assert_same(device_engine, [(torch.arange(len(inputs)), inputs)], len(inputs), 1, dtype=dtype, normalize=False)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize(
    ("ids", "rows", "documents", "message"),
    [
        ([1, 8, -1], 1.0, 1.0, r"indices: expected values in \[0, 8\), got 8 at position 1; .* \(step 1\)"),
        ([2**40, 0, 1], NAN, 1.0, r"indices: expected values in \[0, 8\), got 2147483647 at position 0"),
        ([3, 5, 5], NAN, INF, r"embeddings: expected values that are finite .* instance 5 at position 1"),
        ([3, 5, 6], 1.0, INF, r"documents: expected values that are finite .* instance 5 at position 1"),
        ([3, 5, 6], 65520.0, 1.0, r"embeddings: .* instance 5 at position 1"),
    ],
)  # fmt: skip
def test_bad_values_are_reported_later_and_not_stored(device_engine, momentum, ids, rows, documents, message):
    embeddings = torch.ones(3, 33)
    bad, bad_documents = embeddings.clone(), embeddings.clone()
    bad[1, 32], bad_documents[1, 32] = rows, documents
    with device_engine() as device:
        options = {"two_towers": True, "normalize": False, "momentum": momentum, "dtype": torch.float16}
        bank, expected = (FeatureBank(8, 33, device=device, **options) for _ in range(2))
        embeddings, bad, bad_documents = (part.to(device) for part in (embeddings, bad, bad_documents))
        bank.update([0, 3, 5], embeddings, 2 * embeddings)
        bank.update(ids, bad, bad_documents)
        bank.update([0, 0, 1], 4 * embeddings, embeddings)  # the next update is stored
        bank.update([7, 9, 1], embeddings, embeddings)  # a second error: the first is reported
        with pytest.raises(ValueError, match=message):
            _ = bank.missing_embedding_share
        expected.update([0, 3, 5], embeddings, 2 * embeddings)
        expected.step = 2
        expected.update([0, 0, 1], 4 * embeddings, embeddings)
        expected.step = 4
        assert_equal(bank, expected)  # an error is reported once
        bank.update([9, 0, 1], embeddings, embeddings)
        with pytest.raises(ValueError, match=r"got 9 at position 0; .* \(step 4\)"):
            bank.state_dict()


def test_arguments_are_checked_immediately(device_engine):
    with device_engine() as device:
        bank = FeatureBank(8, 4, device=device)
        for arguments, error, message in [
            (([0], torch.randn(2, 4)), ValueError, r"embeddings: expected shape \[1, 4\], got \[2, 4\]"),
            (([0], torch.zeros(1, 4, dtype=torch.int64)), TypeError, "embeddings: expected a floating point tensor"),
            (([0.5], torch.randn(1, 4)), TypeError, "indices: expected integers"),
            (([0], torch.randn(1, 4), torch.randn(1, 4)), ValueError, "documents: expected no documents"),
        ]:
            with pytest.raises(error, match=message):
                bank.update(*arguments)
        assert (bank.step, bank.missing_embedding_share) == (0, 1)


def test_skipped_rows_are_counted(device_engine):
    rows = torch.tensor([[1.0, 1.0], [INF, 1.0], [1.0, NAN], [2.0, 1.0]])
    documents = torch.tensor([[NAN, 1.0], [INF, 1.0], [1.0, 1.0], [2.0, 1.0]])
    updates = [([0, 1, 2, 3], rows, documents), ([3, 0, 3, 3], documents, rows)]
    assert_same(device_engine, updates, 4, 2, two_towers=True, nonfinite="skip")
    with device_engine() as device:
        bank = FeatureBank(4, 2, device=device, two_towers=True, nonfinite="skip")
        bank.update([0, 1, 2, 3], rows, documents)
        assert bank.num_skipped == 3
        bank.update([0, 1, 2, 4], rows, documents)  # refused: its rows do not count
        with pytest.raises(ValueError, match="indices: .* got 4"):
            bank.stats()
        assert bank.stats().num_skipped == 3
        assert bank.last_update.tolist() == [-1, -1, -1, 0]


def test_rows_of_the_bank_itself_can_be_stored(device_engine):
    with device_engine() as device:
        bank = FeatureBank(2, 2, dtype=torch.float32, normalize=False, device=device)
        bank.update([0, 1], torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        bank.update([1, 0], bank.data)
        assert bank.data.tolist() == [[0, 1], [1, 0]]


def test_states_move_between_devices(device_engine, tmp_path):
    def filled(bank: FeatureBank) -> FeatureBank:
        bank.update([4, 2, 0], torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [NAN, 1.0, 1.0]]))
        return bank

    def new(device: torch.device | str) -> FeatureBank:
        return FeatureBank(6, 3, device=device, nonfinite="skip", momentum=0.5)

    expected = filled(new("cpu"))
    with device_engine() as device:
        bank = filled(new(device))
        state = bank.state_dict()
        bank.save(tmp_path / "device.pt")
    for other in (new("cpu"), new("cpu")):
        other.load_state_dict(state)
        assert_equal(other, expected)
    other = new("cpu")
    other.load(tmp_path / "device.pt")
    assert_equal(other, expected)
    expected.save(tmp_path / "host.pt")
    with device_engine() as device:
        first, second = filled(new(device)), new(device)  # loading replaces the rows of the first
        first.load_state_dict(expected.state_dict())
        second.load(tmp_path / "host.pt")
        assert_equal(first, expected)
        assert_equal(second, expected)
        for bank in (first, second, expected):
            filled(bank)
        assert expected.num_skipped == 2
        assert_equal(first, expected)
        assert_equal(second, expected)


def test_gathered_rows_return_to_the_device(device_engine):
    """Has one rank; test_bank.py has two. Gathered rows have one dtype, so ranks may pass different dtypes."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        rows = scaled_rows(9, 5, 0, torch.bfloat16)
        assert_same(
            device_engine, [(torch.arange(9), rows, -rows), ([3, 3], rows[:2], rows[:2])], 12, 5, two_towers=True
        )
        with device_engine() as device:
            bank = FeatureBank(4, 2, device=device)
            bank.update([4], torch.ones(1, 2))
            with pytest.raises(ValueError, match="indices: .* got 4"):
                bank.check()
    finally:
        torch.distributed.destroy_process_group()


FEW = GraphConfig(num_candidates=20, num_neighbors=6)
WALKS = {"planner": "walks", "refresh_every": 3}


# --- samplers --------------------------------------------------------------------------------------------------------
def drift(bank: FeatureBank, batch: list[int]) -> None:
    """Moves the embeddings of a batch a little, as training does. The move is a function of the step."""
    generator = torch.Generator().manual_seed(bank.step)
    rows = bank.data.cpu()[batch].float() + 0.05 * torch.randn(len(batch), bank.dim, generator=generator)
    bank.update(batch, rows, -rows if bank.documents is not None else None)


def two_epochs(
    bank: FeatureBank, num_filled: int, graph: GraphConfig = FEW, **options
) -> tuple[list[list[list[int]]], list[float]]:
    rows = torch.randn(num_filled, bank.dim, generator=torch.Generator().manual_seed(3))
    if num_filled:
        bank.update(range(num_filled), rows, rows.flip(0) if bank.documents is not None else None)
    sampler = ProximityBatchSampler(bank=bank, graph=graph, seed=5, **options)
    epochs = []
    for _ in range(2):
        epochs.append([])
        for batch in sampler:
            epochs[-1].append(batch)
            drift(bank, batch)
    stats = sampler.stats()
    return epochs, [stats.in_batch_similarity, stats.random_fill_share, stats.missing_embedding_share]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"drop_last": True},
        WALKS,
        {**WALKS, "drop_last": True, "planner": WalkPlanner("rw")},
        {**WALKS, "graph": replace(FEW, labels=torch.arange(90) % 5, metric="l2")},
        {**WALKS, "num_filled": 40},
        {**WALKS, "num_filled": 0},
        {**WALKS, "two_towers": True},
        {**WALKS, "planner": "cover_by_walks"},
        {"planner": "uniform"},
        {"planner": "uniform", "drop_last": True, "num_filled": 0},
        {**WALKS, "sampler": torch.utils.data.SubsetRandomSampler(range(3, 90, 2))},
    ],
)
def test_samplers_draw_the_batches_of_the_cpu(device_engine, options):
    options = {"num_filled": 90, "sampler": 90, "batch_size": 8, "two_towers": False, **options}
    two_towers = options.pop("two_towers")
    expected, expected_stats = two_epochs(FeatureBank(90, 8, two_towers=two_towers), **options)
    assert expected[0] != expected[1]
    with device_engine() as device:
        found, stats = two_epochs(FeatureBank(90, 8, two_towers=two_towers, device=device), **options)
    assert found == expected
    assert all(type(i) is int for batch in found[0] for i in batch)
    assert stats == pytest.approx(expected_stats, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("num_filled", [0, 60, 90])
@pytest.mark.parametrize("given", [{"unique": torch.arange(90) // 5}, {"positives": [[0, 1], [5, 80]], "margin": 0.2}])
def test_batches_and_masks_of_a_contract_are_those_of_the_cpu(device_engine, num_filled, given):
    def steps(device):
        bank = FeatureBank(90, 8, two_towers=True, device=device)
        rows = torch.randn(num_filled, 8, generator=torch.Generator().manual_seed(3))
        if num_filled:
            bank.update(range(num_filled), rows, rows + 0.5)
        sampler = ProximityBatchSampler(90, 8, bank=bank, graph=FEW, **given)
        found = [(batch, sampler.negative_mask(batch).tolist()) for batch in sampler]
        return found, None if sampler.graph is None else sampler.graph.neighbors.tolist()

    expected = steps("cpu")
    with device_engine() as device:
        assert steps(device) == expected


def test_samplers_report_errors_of_the_bank(device_engine):
    with device_engine() as device:
        bank = FeatureBank(30, 4, device=device)
        bank.update(range(30), torch.randn(30, 4))
        sampler = ProximityBatchSampler(30, 5, bank=bank, planner="walks", refresh_every=2)
        iterator = iter(sampler)
        drawn = [next(iterator), next(iterator)]
        bank.update([1], torch.full((1, 4), NAN))
        with pytest.raises(ValueError, match="embeddings: .* instance 1"):
            next(iterator)
        drawn += list(sampler)  # continues where it stopped
        assert len(drawn) == 6


def test_sampler_states_equal_the_cpu(device_engine):
    def half(device: torch.device | str) -> ProximityBatchSampler:
        bank = FeatureBank(40, 4, device=device)
        bank.update(range(40), torch.randn(40, 4, generator=torch.Generator().manual_seed(0)))
        return ProximityBatchSampler(40, 5, bank=bank, planner="walks", refresh_every=3)

    with device_engine() as device:
        sampler = half(device)
        iterator = iter(sampler)
        begin = [next(iterator) for _ in range(2)]
        state = sampler.state_dict()
        assert all(part.device.type == "cpu" for part in state["plans"][0].values() if isinstance(part, torch.Tensor))
        rest = list(iterator)
    other = half("cpu")
    assert list(other) == begin + rest
    again = half("cpu")
    again.load_state_dict(state)
    assert list(again) == rest


def test_sampler_states_may_be_on_any_device(device_engine):
    """torch.load(..., map_location="cuda") moves all tensors of a checkpoint."""
    bank, rows = FeatureBank(40, 4, two_towers=True), torch.randn(40, 4)
    bank.update(range(40), rows, rows.roll(1, 1))
    sampler = ProximityBatchSampler(40, 5, bank=bank, margin=0.1)
    iterator = iter(sampler)
    next(iterator)
    state = sampler.state_dict()
    rest = list(iterator)
    with device_engine() as device:
        plans = [
            {name: part.to(device) if isinstance(part, torch.Tensor) else part for name, part in plan.items()}
            for plan in state["plans"]
        ]
        sampler.load_state_dict({**state, "plans": plans})
        saved = sampler.state_dict()["plans"][0].values()
        assert all(part.device.type == "cpu" for part in saved if isinstance(part, torch.Tensor))
        assert list(sampler) == rest


# --- tests that need a GPU -------------------------------------------------------------------------------------------
@pytest.mark.needs_cuda
def test_bank_stays_on_its_device():
    bank = FeatureBank(4, 3)
    bank.update([0], torch.ones(1, 3, device="cuda"))
    assert bank.device == bank.data.device == torch.device("cpu")
    bank = FeatureBank(4, 3, device="cuda")
    bank.update([0], torch.ones(1, 3))
    assert bank.device == bank.data.device == torch.device("cuda", 0)


@pytest.mark.needs_cuda
def test_only_banks_on_the_cpu_have_files(tmp_path):
    with pytest.raises(ValueError, match="path: expected None for a bank on 'cuda:0'"):
        FeatureBank(4, 3, device="cuda", path=tmp_path / "bank")
    bank = FeatureBank(4, 3, path=tmp_path / "bank")
    bank.update([0], torch.ones(1, 3, device="cuda"))
    assert bank.device.type == "cpu"
    assert bank.missing_embedding_share == 0.75


@pytest.mark.needs_cuda
@pytest.mark.parametrize("place", ["cuda", "cpu", "pinned"])
def test_updates_do_not_wait_for_the_device(no_waiting, place):
    bank = FeatureBank(1000, 64, device="cuda", two_towers=True, momentum=0.5, nonfinite="skip")
    rows, ids = torch.randn(256, 64), torch.randint(0, 1000, (256,))
    if place == "cuda":
        rows, ids = rows.cuda(), ids.cuda()
    elif place == "pinned":
        rows, ids = rows.pin_memory(), ids.pin_memory()
    bank.update(ids, rows, rows)
    expected = FeatureBank(1000, 64, two_towers=True, momentum=0.5)
    for _ in range(3):
        expected.update(ids.cpu(), rows.cpu(), rows.cpu())
    first = ids[:1].tolist()
    torch.cuda.synchronize()
    with no_waiting():
        bank.update(ids, rows, rows)
        bank.update(ids, rows, rows)
        bank.update(first, rows[:1], rows[:1])
    expected.update(ids.cpu()[:1], rows[:1].cpu(), rows[:1].cpu())
    assert_equal(bank, expected)


@pytest.mark.needs_cuda
def test_updates_are_queued_on_the_current_stream():
    """Updates follow slow work of the caller's stream, and precede later work on the bank on any stream."""
    side = torch.cuda.Stream()
    bank = FeatureBank(64, 32, dtype=torch.float32, normalize=False, device="cuda")
    rows = torch.zeros(64, 32, device="cuda")
    bank.update(range(64), rows)  # allocates the pinned memory of the next update
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        rows.fill_(3.0)
        bank.update(range(64), rows)
    assert not side.query()  # update() has not waited
    first = bank.data.clone()  # on another stream, still in order
    bank.update([0], torch.full((1, 32), 5.0, device="cuda"))
    assert bool((first == 3.0).all())
    assert bank.data[:2, 0].tolist() == [5.0, 3.0]
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        bank.update([64], rows[:1])
    with pytest.raises(ValueError, match="indices: .* got 64"):
        bank.check()


@pytest.mark.needs_cuda
def test_bank_on_another_device_equals_the_cpu():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    rows = torch.randn(16, 8)
    expected = FeatureBank(16, 8)
    expected.update(range(16), rows)
    bank = FeatureBank(16, 8, device="cuda:1")  # while cuda:0 is current
    bank.update(torch.arange(16, device="cuda:0"), rows.to("cuda:0"))
    assert_equal(bank, expected)
    sampler = ProximityBatchSampler(16, 4, bank=bank, planner="walks")
    same = ProximityBatchSampler(16, 4, bank=expected, planner="walks")
    assert list(sampler) == list(same)
