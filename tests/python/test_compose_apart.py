"""What may not meet in a batch of a plan: the repair against its oracle, and what it promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsampler_ext._engine.backend import core
from batchsampler_ext._plan.keep_apart import Apart, codes_of_repeated, partners_of, keep_apart
from batchsampler_ext.reference import keep_apart as oracle

NO_PAIRS = np.empty((0, 2), np.int64)


def sizes_of(num_members: int, batch_size: int) -> np.ndarray:
    sizes = np.full(num_members // batch_size, batch_size)
    tail = num_members % batch_size
    return np.append(sizes, tail) if tail else sizes


@st.composite
def problems(draw):
    """(members, sizes, Apart, neighbors): small, and often impossible."""
    num_instances = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_members = draw(st.integers(1, num_instances))
    num_columns, num_ids = draw(st.integers(0, 3)), draw(st.integers(1, 40))
    ids = rng.integers(-1, num_ids, (num_instances, num_columns))
    pairs = rng.integers(0, num_instances, (draw(st.integers(0, 10)), 2))
    members = torch.from_numpy(rng.permutation(num_instances)[:num_members].astype(np.int32))
    num_neighbors = draw(st.integers(0, 6))
    neighbors = None
    if num_neighbors:
        neighbors = rng.integers(0, num_instances, (num_instances, num_neighbors)).astype(np.int32)
        neighbors = torch.from_numpy(
            np.where(np.arange(num_neighbors) < rng.integers(0, 7, (num_instances, 1)), neighbors, -1)
        )
    sizes = sizes_of(num_members, draw(st.integers(1, 12)))
    return members, sizes, Apart(ids, draw(st.integers(1, 3)), pairs), neighbors


def has_too_many(members, sizes, apart: Apart) -> bool:
    for batch in np.split(members, np.cumsum(sizes)[:-1]):
        for column in apart.ids[batch].T:
            _, counts = np.unique(column[column >= 0], return_counts=True)
            if counts.max(initial=0) > apart.max_per_batch:
                return True
    return False


def num_met(members, sizes, pairs) -> int:
    batch_of = dict(zip(members.tolist(), np.repeat(np.arange(len(sizes)), sizes).tolist(), strict=True))
    return sum(i != j and batch_of.get(i, -1) == batch_of.get(j, -2) for i, j in pairs.tolist())


def exists(members, sizes, apart: Apart) -> bool:
    """Whether an assignment exists for a single column: a maximum flow from ids to batches, by augmenting paths."""
    column = apart.ids[members, 0]
    values, counts = np.unique(column[column >= 0], return_counts=True)
    room = [[apart.max_per_batch] * len(sizes) for _ in values]
    free = list(sizes)
    flow = [[0] * len(sizes) for _ in values]

    def augment(i, seen):
        for b in range(len(sizes)):
            if room[i][b] and b not in seen:
                seen.add(b)
                if free[b]:
                    free[b] -= 1
                else:
                    for other in range(len(values)):
                        if flow[other][b] and other != i and augment(other, seen):
                            flow[other][b] -= 1
                            room[other][b] += 1
                            break
                    else:
                        continue
                room[i][b] -= 1
                flow[i][b] += 1
                return True
        return False

    return all(augment(i, set()) for i, count in enumerate(counts) for _ in range(count))


@settings(max_examples=300, deadline=None)
@given(problems())
def test_no_batch_holds_an_id_too_often_or_the_call_is_refused(problem):
    members, sizes, apart, neighbors = problem
    before = members.clone()
    try:
        repaired = keep_apart(members, sizes, apart, neighbors, seed=1, epoch=0)
    except ValueError as error:
        assert str(error).startswith("unique: expected")
        assert has_too_many(members.numpy(), sizes, apart)
        if apart.ids.shape[1] == 1:
            assert not exists(members.numpy(), sizes, apart)
        return
    assert torch.equal(members, before)
    assert sorted(repaired.members.tolist()) == sorted(members.tolist())
    assert not has_too_many(repaired.members.numpy(), sizes, apart)
    assert repaired.num_met == num_met(repaired.members.numpy(), sizes, apart.positives)


@settings(max_examples=300, deadline=None)
@given(problems(), st.integers(0, 2**64 - 1))
def test_repair_equals_the_oracle(problem, key):
    from batchsampler_ext._engine.requests import KeepApartRequest

    members, sizes, apart, neighbors = problem
    codes = codes_of_repeated(apart.ids[members.numpy()], apart.max_per_batch)
    offsets, partners = partners_of(apart.positives, len(apart.ids))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    lists = {i: partners[offsets[i] : offsets[i + 1]].tolist() for i in range(len(apart.ids))}
    num_codes = int(codes.max(initial=-1)) + 1
    table = None if neighbors is None else neighbors.numpy()
    expected = oracle.keep_apart(members.tolist(), starts, codes, num_codes, apart.max_per_batch, lists, table, key)
    result = members.clone()
    request = KeepApartRequest(
        result.data_ptr(), len(result), starts.ctypes.data, len(sizes), codes.ctypes.data, codes.shape[1], num_codes,
        apart.max_per_batch, offsets.ctypes.data, partners.ctypes.data, 0 if neighbors is None else neighbors.data_ptr(),
        0 if neighbors is None else neighbors.shape[1], len(apart.ids), key,
    )  # fmt: skip
    found = core.keep_apart(request)
    assert (result.tolist(), *found) == expected
