"""Interruption and resume: the exact sequence continues after any interruption. Bad states are refused."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import weakref

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from batchsampler_ext import FeatureBank, GraphConfig, IndexedDataset, PartitionPlanner, ProximityBatchSampler


def digits(count: int) -> torch.Tensor:
    data = torch.from_numpy(load_digits().data[:count]).float()
    return data - data.mean(0)


def filled_bank(count: int) -> FeatureBank:
    bank = FeatureBank(count, 64)
    bank.update(range(count), digits(count))
    return bank


def drift(bank: FeatureBank, batch: list[int]) -> None:
    """Moves the embeddings of a batch a little, as training does. The move is a function of the step."""
    generator = torch.Generator().manual_seed(bank.step)
    bank.update(batch, bank.data[batch].float() + 0.05 * torch.randn(len(batch), bank.dim, generator=generator))


def make(count: int = 600, **arguments) -> ProximityBatchSampler:
    options = {"graph": GraphConfig(num_candidates=100, num_neighbors=20), "seed": 3, **arguments}
    return ProximityBatchSampler(count, 32, bank=filled_bank(count), **options)


def walks(**arguments) -> ProximityBatchSampler:
    """Returns a sampler of walks, with a new plan every five batches."""
    return make(**{"planner": "walks", "refresh_every": 5, **arguments})


def run(
    sampler: ProximityBatchSampler, num_epochs: int, stop_after: int | None = None, refresh_after: int | None = None
) -> list[list[list[int]]]:
    """Returns the batches of each epoch, as training would see them.

    stop_after: stops after this many batches in all, also within an epoch.
    refresh_after: requests a new plan each time that this many more batches of an epoch were drawn.
    """
    epochs: list[list[list[int]]] = []
    num_drawn = 0
    for _ in range(num_epochs):
        epochs.append([])
        for batch in sampler:
            epochs[-1].append(batch)
            drift(sampler.bank, batch)
            num_drawn += 1
            if refresh_after and sampler.state_dict()["num_drawn"] % refresh_after == 0:
                sampler.refresh()
            if num_drawn == stop_after:
                return epochs
    return epochs


@pytest.mark.parametrize(
    ("options", "refresh_after"),
    [
        ({}, 5),
        ({}, None),
        *(({"planner": p, "refresh_every": n}, None) for p in ("walks", "cover_by_walks") for n in (5, None)),
    ],
)
def test_kill_and_resume_continue_the_exact_sequence(options, refresh_after):
    """Interrupts at random batches and at the ends of epochs, and resumes in fresh objects from pickled states."""
    expected = run(make(**options), 3, refresh_after=refresh_after)
    lengths = [len(epoch) for epoch in expected]
    total = sum(lengths)
    places = [lengths[0], lengths[0] + lengths[1], lengths[0] - 1, lengths[0] + 1]
    places += np.random.default_rng(0).integers(1, total, 6 if options else 50).tolist()
    for place in places:
        sampler = make(**options)
        before = run(sampler, 3, place, refresh_after)
        saved = pickle.dumps((sampler.bank.state_dict(), sampler.state_dict()))
        bank_state, sampler_state = pickle.loads(saved)
        sampler = make(**options)
        sampler.bank.load_state_dict(bank_state)
        sampler.load_state_dict(sampler_state)
        done = len(before)
        is_whole = len(before[-1]) == lengths[done - 1]
        rest = run(sampler, 3 - done + (not is_whole), refresh_after=refresh_after)
        if not is_whole:
            rest[0] = before.pop() + rest[0]
        assert before + rest == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_prefetched_by_a_loader_are_drawn_again(num_workers):
    """state_dict(num_trained) goes back to what was trained, also across a refresh."""
    for num_trained in (1, 4, 5, 6, 9, 14):
        sampler = walks()
        expected = list(walks())
        arguments = {"num_workers": num_workers, **({"multiprocessing_context": "spawn"} if num_workers else {})}
        loader = DataLoader(IndexedDataset(TensorDataset(digits(600))), batch_sampler=sampler, **arguments)
        batches = iter(loader)
        trained = [next(batches)[0].tolist() for _ in range(num_trained)]
        state = sampler.state_dict(num_trained)
        assert state["num_drawn"] == num_trained
        resumed = walks()
        resumed.load_state_dict(state)
        assert trained + list(resumed) == expected
        assert sampler.state_dict()["num_drawn"] >= num_trained  # nothing says what was trained
        for _ in batches:  # torch's workers sometimes abort if a loader is left in the middle (seen with torch 2.13)
            pass
        if num_workers:
            break  # processes are slow to start


def test_num_trained_that_was_not_drawn_is_refused():
    sampler = walks()
    batches = iter(sampler)
    for _ in range(12):
        next(batches)
    assert sampler.state_dict(0)["num_drawn"] == 0
    for num_trained in (-1, 13):
        with pytest.raises(ValueError, match="num_trained: expected an integer from 0 to 12 .drawn."):
            sampler.state_dict(num_trained)


def test_state_resumes_the_epoch_it_names():
    sampler, expected = make(), make()
    list(sampler)
    sampler.set_epoch(1)  # a checkpoint at the start of an epoch
    state = sampler.state_dict()
    assert (state["epoch"], state["num_drawn"], state["plans"]) == (1, 0, ())
    resumed = make()
    resumed.load_state_dict(state)
    expected.set_epoch(1)
    assert list(resumed) == list(expected)

    batches = iter(sampler)
    for _ in range(5):
        next(batches)
    sampler.set_epoch(7)  # epoch 2 is given up
    state = sampler.state_dict()
    assert (state["epoch"], state["num_drawn"]) == (7, 0)
    resumed.load_state_dict(state)
    resumed.set_epoch(7)
    assert len(list(resumed)) == len(resumed)


def test_state_of_a_finished_epoch_resumes_with_the_next():
    sampler = make()
    list(sampler)
    assert sampler.state_dict()["is_finished"]
    resumed = make()
    resumed.load_state_dict(sampler.state_dict())
    assert (resumed.epoch, sampler.epoch) == (1, 0)  # a training loop counts from here
    assert resumed.state_dict()["is_finished"]
    assert list(resumed) == list(sampler)
    assert (resumed.epoch, sampler.epoch) == (1, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_refresh_loses_no_batches(error):
    expected = list(walks())
    wanted = []

    def progress(*_) -> None:
        if wanted:
            wanted.clear()
            raise error

    sampler = walks(progress=progress)
    batches = iter(sampler)
    drawn = [next(batches) for _ in range(5)]
    wanted.append(True)
    with pytest.raises(error):
        next(batches)
    assert drawn + list(sampler) == expected

    sampler = walks(progress=progress)
    wanted.append(True)
    with pytest.raises(error):
        next(iter(sampler))
    assert list(sampler) == expected
    assert sampler.epoch == 0


def test_requested_refresh_is_saved_and_done_once():
    sampler = make()
    batches = iter(sampler)
    drawn = [next(batches) for _ in range(3)]
    sampler.refresh()
    resumed = make()
    resumed.load_state_dict(pickle.loads(pickle.dumps(sampler.state_dict())))
    assert drawn + list(resumed) == drawn + list(batches)
    count = sampler.refreshes
    sampler.refresh()  # between epochs: the next epoch begins with a new graph anyway
    next(iter(sampler))
    assert sampler.refreshes == count + 1


@pytest.mark.parametrize(("options", "size"), [({"planner": "walks", "refresh_every": 5}, 64 * 5), ({}, 50_000)])
def test_states_are_small(options, size):
    bank = FeatureBank(50_000, 4, dtype=torch.float32)
    bank.update(range(50_000), torch.randn(50_000, 4))
    sampler = ProximityBatchSampler(50_000, 64, bank=bank, graph=GraphConfig(num_candidates=50), **options)
    next(iter(sampler))
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    assert file.tell() < 4 * size + 10_000  # the plan


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"seed": 4}, "seed"),
        ({"planner": "cover_by_walks"}, "planner"),
        ({"planner": "uniform"}, "planner"),
        ({"planner": PartitionPlanner("soft")}, "hardness"),
        ({"drop_last": True}, "drop_last"),
    ],
)
def test_states_of_other_samplers_are_refused(arguments, name):
    sampler = make()
    next(iter(sampler))
    with pytest.raises(ValueError, match=f"state: expected {name} .* as this sampler has, got"):
        make(**arguments).load_state_dict(sampler.state_dict())


def test_states_of_other_instances_are_refused():
    bank = filled_bank(200)
    first, second = (
        ProximityBatchSampler(SubsetRandomSampler(range(start, start + 100)), 16, bank=bank) for start in (0, 100)
    )
    next(iter(first))
    with pytest.raises(ValueError, match="state: expected instances "):
        second.load_state_dict(first.state_dict())
    shuffled = ProximityBatchSampler(SubsetRandomSampler(torch.randperm(100).tolist()), 16, bank=bank)
    shuffled.load_state_dict(first.state_dict())  # the order in which a sampler lists its instances does not matter
    rest = list(shuffled)
    first.load_state_dict(first.state_dict())
    assert rest == list(first)


def damaged_states() -> dict[str, object]:
    sampler = make()
    batches = iter(sampler)
    for _ in range(3):
        next(batches)
    good = sampler.state_dict()

    def plan(**changes) -> dict:
        return {**good, "plans": [{**good["plans"][0], **changes}]}

    indices = good["plans"][0]["indices"]
    return {
        "nothing": {},
        "a list": [],
        "old version": {**good, "version": 1},
        "too far": {**good, "num_drawn": 500},
        "negative": {**good, "num_drawn": -3},
        "no plans": {key: value for key, value in good.items() if key != "plans"},
        "no epoch": {key: value for key, value in good.items() if key != "epoch"},
        "epoch": {**good, "epoch": -1},
        "settings": {**good, "settings": None},
        "plan": {**good, "plans": [[1, 2]]},
        "extra": plan(extra=1),
        "flat indices": plan(indices=indices[0]),
        "other width": plan(indices=indices[:, :5]),
        "float indices": plan(indices=indices.float()),
        "large ids": plan(indices=indices + 10_000),
        "negative ids": plan(indices=-1 - indices),
        "scalar tail": plan(tail=torch.tensor(3, dtype=torch.int32)),
        "first": plan(first=-1),
    }


@pytest.mark.parametrize("damage", sorted(damaged_states()))
def test_damaged_states_are_refused(damage):
    sampler = make()
    expected = list(make())
    with pytest.raises((TypeError, ValueError), match=r"^(state|epoch)"):
        sampler.load_state_dict(damaged_states()[damage])
    assert list(sampler) == expected  # the bad state has changed nothing


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda sampler: pickle.loads(pickle.dumps(sampler))])
@pytest.mark.parametrize("place", [1, 5, 6])
def test_copies_continue_where_the_sampler_would(duplicate, place):
    sampler = walks()
    iterator = iter(sampler)
    begun = [next(iterator) for _ in range(place)]
    other = duplicate(sampler)
    other.load_state_dict(other.state_dict())
    assert begun + list(iterator) == begun + list(other)


def test_states_go_back_across_a_requested_refresh():
    sampler, drawn = make(), []
    for batch in sampler:
        drawn.append(batch)
        if len(drawn) == 3:
            sampler.refresh()
        elif len(drawn) == 5:
            state = sampler.state_dict(2)
    resumed = make()
    resumed.load_state_dict(state)
    assert drawn[:2] + list(resumed) == drawn


def resumed_rest(sampler: ProximityBatchSampler, fresh: ProximityBatchSampler, num_epochs: int) -> list:
    """Returns what a fresh sampler and bank train on after they have loaded the present states."""
    bank_state, sampler_state = pickle.loads(pickle.dumps((sampler.bank.state_dict(), sampler.state_dict())))
    fresh.bank.load_state_dict(bank_state)
    fresh.load_state_dict(sampler_state)
    return run(fresh, num_epochs)


def drawn_ahead(sampler: ProximityBatchSampler, num_ahead: int, num_epochs: int = 1):
    """Yields the batches that a loader hands to training. It draws num_ahead more, as one with workers does."""
    for _ in range(num_epochs):
        batches, ahead = iter(sampler), []
        for batch in batches:
            ahead.append(batch)
            if len(ahead) > num_ahead:
                yield ahead.pop(0)
        yield from ahead


@pytest.mark.parametrize("num_ahead", [0, 1, 4, 17, 30])
@pytest.mark.parametrize("maker", [make, walks])
def test_state_is_that_of_the_batch_trained_last(maker, num_ahead):
    """The bank says which batch that is, so the state needs no count, also across many plans."""
    for num_trained in (1, 7, 18, 19):
        sampler, trained = maker(), []
        for batch in drawn_ahead(sampler, num_ahead):
            drift(sampler.bank, batch)
            trained.append(batch)
            if len(trained) == num_trained:
                break
        state = sampler.state_dict()
        assert state["num_drawn"] == num_trained
        if maker is make and num_trained < 19:  # one plan per epoch, so the rest of the epoch is known
            assert trained + resumed_rest(sampler, make(), 1)[0] == list(make())


@pytest.mark.parametrize("num_ahead", [0, 2, 30])
def test_looks_at_the_loader_do_not_change_the_state(num_ahead):
    expected = run(make(), 2)
    for place in (1, 5, 18, 19):
        sampler, trained = make(), []
        for batch in drawn_ahead(sampler, num_ahead):
            drift(sampler.bank, batch)
            trained.append(batch)
            if len(trained) == place:
                next(iter(sampler))  # a look: its iterator ends at once
                state = sampler.state_dict()
                kept = iter(sampler)  # a look that stays open
                next(kept)
                assert sampler.state_dict()["num_drawn"] == state["num_drawn"] == place
                assert sampler.state_dict()["epoch"] == state["epoch"] == 0
                assert sampler.state_dict(num_trained=place)["epoch"] == 0
                if num_ahead == 0:
                    rest = resumed_rest(sampler, make(), 2)
                    rest = rest if place < len(expected[0]) else [[], *rest]
                    assert [trained + rest[0], *rest[1:2]] == expected
        assert trained == expected[0] or num_ahead > 0
        assert sorted(i for batch in trained for i in batch) == list(range(600))


def test_a_look_takes_no_epoch():
    sampler = make()
    for number, batch in enumerate(sampler):
        if number == 5:
            next(iter(sampler))
        drift(sampler.bank, batch)
    assert sampler.epoch == 0
    second = run(sampler, 1)
    assert (sampler.epoch, second) == (1, run(make(), 2)[1:])


def test_updates_may_be_parts_of_a_batch_or_several_batches():
    for sizes in ([8, 8, 8, 8], [32], [10, 22]):  # chunks of a batch, as with cached gradients
        sampler = make()
        for number, batch in enumerate(drawn_ahead(sampler, 3), start=1):
            for part in torch.tensor(batch).split(sizes[: len(batch) // 8] if len(batch) < 32 else sizes):
                drift(sampler.bank, part.tolist())
            assert sampler.state_dict()["num_drawn"] == number
            if number == 12:
                break
    sampler, waiting = make(), []
    for number, batch in enumerate(drawn_ahead(sampler, 3), start=1):  # accumulated gradients: one update of 4 batches
        waiting += batch
        if number % 4 == 0:
            drift(sampler.bank, waiting)
            waiting = []
            assert sampler.state_dict()["num_drawn"] == number


def test_without_updates_all_drawn_batches_count_as_trained():
    sampler = make()  # a bank that a teacher has filled
    for number, _ in enumerate(drawn_ahead(sampler, 3), start=1):
        if number == 6:
            break
    assert sampler.state_dict()["num_drawn"] == 9
    assert sampler.state_dict(6)["num_drawn"] == 6
    sampler.bank.update([0, 599], torch.randn(2, 64))  # of no batch
    assert sampler.state_dict()["num_drawn"] == 9


def test_state_between_epochs_is_that_of_the_finished_epoch():
    """The next epoch was drawn ahead, but nothing of it is trained: its plan is made again from the same bank."""
    sampler = make()
    first = run(sampler, 1)
    ahead = iter(sampler)
    next(ahead)
    assert sampler.state_dict()["is_finished"]
    assert first + resumed_rest(sampler, make(), 1) == run(make(), 2)


def test_an_epoch_that_is_drawn_ahead_before_it_is_announced_keeps_its_position():
    """Lightning makes the iterator first, and calls set_epoch then."""
    for num_ahead in (3, 18, 19, 30):
        sampler, trained = make(), []
        batches = drawn_ahead(sampler, num_ahead)
        trained.append(next(batches))
        sampler.set_epoch(0)
        for _ in range(3):
            drift(sampler.bank, trained[-1])
            trained.append(next(batches))
        assert (sampler.state_dict()["epoch"], sampler.state_dict()["num_drawn"]) == (0, 3)
        assert sampler.state_dict(num_trained=2)["num_drawn"] == 2


def test_an_epoch_may_be_drawn_again():
    sampler, expected = make(), list(make())
    for batch in sampler:
        drift(sampler.bank, batch)
    sampler.set_epoch(0)
    assert (sampler.state_dict()["epoch"], sampler.state_dict()["num_drawn"]) == (0, 0)
    assert list(sampler) != expected  # from other embeddings


def state_after(num_epochs: int, num_batches: int) -> dict:
    sampler = make()
    run(sampler, num_epochs)
    batches = iter(sampler)
    for _ in range(num_batches):
        drift(sampler.bank, next(batches))
    return sampler.state_dict()


def test_loaders_that_load_the_state_themselves_may_count_epochs_from_zero():
    """StatefulDataLoader loads in __iter__, after Accelerate has called set_epoch with its own number."""
    sampler = make()
    sampler.set_epoch(0)
    sampler.load_state_dict(state_after(2, 5))
    assert (len(list(sampler)), sampler.epoch) == (14, 2)
    with pytest.warns(UserWarning, match=r"set_epoch\(0\) with a loaded state that continues with epoch 2"):
        sampler.set_epoch(1)
    for number in (1, 2):
        sampler.set_epoch(number)  # Accelerate calls it twice
        assert (len(list(sampler)), sampler.epoch) == (19, 2 + number)


def test_right_numbers_of_epochs_after_loading_are_taken_as_they_are():
    for numbers in ([2, 3, 4], [3, 4], [7, 9]):
        sampler = make()
        sampler.set_epoch(0)
        sampler.load_state_dict(state_after(2, 5))
        if numbers[0] != 2:
            list(sampler)
        for number in numbers:
            sampler.set_epoch(number)
            list(sampler)
            assert sampler.epoch == number


def test_an_iterator_given_up_right_after_loading_loses_no_batches():
    """StatefulDataLoader with workers draws ahead, gives the iterator up and begins again."""
    for num_epochs, num_batches in ((1, 0), (0, 5)):
        state = state_after(num_epochs, num_batches)
        sampler, expected = make(), make()
        for each in (sampler, expected):
            each.load_state_dict(state)
        given_up = iter(sampler)
        begun = [next(given_up), next(given_up)]
        batches = iter(sampler)
        first = next(batches)
        del given_up
        assert first == begun[0]
        assert [first, *batches] == list(expected)
        assert sampler.epoch == expected.epoch


def test_trainers_that_skip_batches_continue_with_the_loaded_state():
    """HF Trainer resumes with accelerate's class, too."""
    SkipBatchSampler = pytest.importorskip("accelerate.data_loader").SkipBatchSampler
    expected = run(make(), 2)
    sampler = make()
    begun = run(sampler, 2, stop_after=19 + 5)[1]
    fresh = make()
    fresh.bank.load_state_dict(copy.deepcopy(sampler.bank.state_dict()))
    with pytest.raises(RuntimeError, match="expected a loaded state, because the trainer resumes and skips 5 batches"):
        next(iter(SkipBatchSampler(fresh, 5)))
    fresh.load_state_dict(sampler.state_dict())
    assert begun + list(SkipBatchSampler(fresh, 5)) == expected[1]
    uniform = make(planner="uniform")  # needs no state: its batches depend on the seed and the epoch only
    assert list(SkipBatchSampler(uniform, 5)) == list(make(planner="uniform"))[5:]
    assert len(list(SkipBatchSampler(fresh, 0))) == 19


def test_batches_are_not_shared_out_twice():
    BatchSamplerShard = pytest.importorskip("accelerate.data_loader").BatchSamplerShard
    with pytest.raises(RuntimeError, match="expected a loader that Accelerate has not prepared"):
        next(iter(BatchSamplerShard(make(rank=0, num_replicas=2), num_processes=2)))
    assert len(list(BatchSamplerShard(make(num_replicas=1), num_processes=2))) == 10  # of 19


def test_code_of_others_with_these_names_is_not_mistaken():
    def prepare_data_loader(sampler, num_processes: int):
        return next(iter(sampler))

    class BatchSamplerShard:
        num_processes = 2

        def __iter__(self):
            yield from make(rank=0, num_replicas=2)

    assert len(prepare_data_loader(make(rank=0, num_replicas=2), num_processes=4)) > 0
    assert len(list(BatchSamplerShard())) == len(make(rank=0, num_replicas=2))


def test_variables_of_training_are_not_kept():
    """Reading the variables of a call keeps their values, on Python before 3.13."""
    large = torch.zeros(3)
    dropped = weakref.ref(large)
    batches = iter(make())
    next(batches)
    del large
    assert dropped() is None


def position(sampler: ProximityBatchSampler) -> tuple[int, int, bool]:
    state = sampler.state_dict()
    return state["epoch"], state["num_drawn"], state["is_finished"]


def small(count: int = 12, **arguments) -> ProximityBatchSampler:
    options = {"bank": FeatureBank(count, 4), "planner": "uniform", "seed": 1, **arguments}
    return ProximityBatchSampler(count, 3, **options)


def train(sampler: ProximityBatchSampler, ids) -> None:
    sampler.bank.update(ids, torch.randn(len(ids), 4))


@pytest.mark.parametrize("other", [[], [10, 11], list(range(6, 12))])
def test_other_updates_do_not_move_the_position(other):
    """For example of nothing, of rows that a filter has kept, or of another sampler on the same bank."""
    bank = FeatureBank(12, 4)
    sampler = ProximityBatchSampler(range(6), 1, bank=bank, planner="uniform")
    batches = iter(sampler)
    drawn = [next(batches) for _ in range(4)]
    train(sampler, drawn[0])
    train(sampler, drawn[1])
    train(sampler, other)
    assert position(sampler) == (0, 2, False)


def test_looks_after_loading_change_nothing():
    sampler = small()
    batches = iter(sampler)
    train(sampler, next(batches))
    resumed = small()
    resumed.bank.load_state_dict(sampler.bank.state_dict())
    resumed.load_state_dict(sampler.state_dict())
    for _ in range(3):
        next(iter(resumed))
        assert position(resumed) == (0, 1, False)
    assert list(resumed) == list(batches)


def test_a_look_before_each_epoch_takes_no_epoch():
    sampler, epochs = small(), []
    for _ in range(3):
        next(iter(sampler))
        for batch in sampler:
            train(sampler, batch)
        epochs.append(sampler.epoch)
    assert epochs == [0, 1, 2]


def test_what_is_drawn_ahead_before_the_first_update_is_not_trained():
    sampler = small()
    for batch in sampler:
        train(sampler, batch)
    sampler.set_epoch(1)
    batches = iter(sampler)
    drawn = [next(batches) for _ in range(3)]
    assert position(sampler) == (1, 0, False)
    train(sampler, drawn[0])
    resumed = small()
    resumed.bank.load_state_dict(sampler.bank.state_dict())
    resumed.load_state_dict(sampler.state_dict())
    ahead = iter(resumed)
    assert [next(ahead), next(ahead)] == drawn[1:]
    assert position(resumed) == (1, 1, False)


def test_a_small_last_batch_belongs_to_its_own_epoch():
    sampler = small(13)
    batches = iter(sampler)
    drawn = [next(batches) for _ in range(5)]
    for batch in drawn[:4]:
        train(sampler, batch)
    look = iter(sampler)
    next(look)
    train(sampler, drawn[4])
    assert position(sampler) == (0, 5, True)


def test_an_interrupted_plan_continues_after_the_batch_trained_last():
    wanted = []

    def progress(*_) -> None:
        if wanted:
            raise KeyboardInterrupt

    sampler = walks(progress=progress)
    batches = iter(sampler)
    drawn = [next(batches) for _ in range(5)]
    drift(sampler.bank, drawn[0])
    wanted.append(True)
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    wanted.clear()
    assert list(itertools.islice(sampler, 4)) == drawn[1:]


def test_another_number_of_skipped_batches_than_the_state_has_is_warned_of():
    sampler = make()
    run(sampler, 1, stop_after=5)
    fresh = make()
    fresh.load_state_dict(sampler.state_dict())
    SkipBatchSampler = pytest.importorskip("accelerate.data_loader").SkipBatchSampler
    with pytest.warns(UserWarning, match="the trainer skips 7 batches, but the loaded state stands at batch 5"):
        assert len(list(SkipBatchSampler(fresh, 7))) == 12
