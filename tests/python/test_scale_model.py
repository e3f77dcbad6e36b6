"""docs/scale.md shows what its model computes, and the model counts the bytes that the engines take."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from batchsampler_ext import FeatureBank
from batchsampler_ext._engine.requests import (
    GraphLayout,
    MatrixLayout,
    PartitionRequest,
    ProximityGraphRequest,
    Selection,
)

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("scale_model", ROOT / "benchmarks" / "scale_model.py")
model = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(model)
ADDRESS = torch.empty(64).data_ptr() // 64 * 64 + 64  # not read: only sizes are planned


@pytest.fixture
def cuda():
    return pytest.importorskip("batchsampler_ext._cuda_emulated", reason="built without BSE_EMULATED_CUDA")


def test_the_page_shows_the_tables_of_the_script():
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert all(f"\n\n{table}\n\n" in page for table in model.tables())


@pytest.mark.parametrize("num_rows", [10**6, 10**8, 10**9])
@pytest.mark.parametrize("batch_size", [64, 256, 4096])
def test_scratch_of_a_partition_is_that_of_the_engine(cuda, num_rows, batch_size):
    graph = GraphLayout(ADDRESS, num_rows, 100, 0, 0, num_rows)
    request = PartitionRequest(graph, batch_size, 1, drop_last=False, hardness=1, seed=0, epoch=0)
    expected = cuda.PartitionCall(request).scratch_bytes
    assert model.partition_scratch(num_rows, batch_size) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("num_rows", [10**6, 10**8, 10**9])
def test_scratch_of_a_graph_is_that_of_the_engine(cuda, num_rows):
    features = MatrixLayout(ADDRESS, 1, num_rows, model.DIM, model.DIM, False)
    selection = Selection(0, 100, 0, 0, None, False)
    request = ProximityGraphRequest(
        features=features,
        documents=None,
        rows=0,
        num_rows=num_rows,
        num_candidates=model.CANDIDATES,
        candidate_group_size=model.GROUPS[0],
        first_group=0,
        num_groups=-(-num_rows // model.GROUPS[0]),
        selection=selection,
        seed=0,
    )
    expected = cuda.ProximityGraphCall(request, has_scores=False, max_memory=2**62).scratch_bytes
    assert model.graph_scratch(num_rows) == pytest.approx(expected, rel=1e-3)


def test_building_the_graph_is_not_the_peak():
    num_rows = model.SIZES[0][0]
    assert model.graph_scratch(num_rows) + 17 * num_rows < model.plan_bytes(num_rows)  # with ids and flags of the rows


def test_a_bank_has_the_counted_bytes():
    tables = FeatureBank(10, model.DIM).state_dict()
    assert sum(tables[name].nbytes for name in ("data", "last_update")) == 10 * (model.BANK - 8)  # claims: CUDA only
