"""Every cell of the matrix of frameworks holds what docs/frameworks/README.md says."""

from __future__ import annotations

import pytest
import torch

from tests.frameworks.frameworks import FRAMEWORKS
from tests.frameworks.matrix import KINDS, Framework, cells
from tests.frameworks.table import PATH, with_table
from tests.python.small_training import lightning_warnings

pytestmark = [
    *lightning_warnings,
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),  # torchdata 0.11 with torch 2.13
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes"),  # on one core
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check(framework: Framework, num_ranks: int, folder) -> None:
    for package in framework.packages:
        pytest.importorskip(package)
    found = cells(framework, num_ranks, folder)
    assert found == {kind: framework.expected(kind, num_ranks) for kind in KINDS}


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)
def test_one_rank(framework, tmp_path):
    check(framework, 1, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)
def test_two_ranks(framework, tmp_path):
    check(framework, 2, tmp_path)


def test_table_of_the_document_is_that_of_the_rows():
    """If it is not, run python -m tests.frameworks.table."""
    document = PATH.read_text(encoding="utf-8")
    assert with_table(document) == document


def test_every_cell_that_does_not_hold_has_a_reason():
    for framework in FRAMEWORKS:
        assert bool(framework.reason) == bool(framework.missing or framework.refused), framework.name
