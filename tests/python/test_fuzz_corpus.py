"""Replays the inputs of tests/fuzz/corpus: seeds of the fuzzer, and each input that has found a bug."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, run_input

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_are_refused_by_name_or_obeyed(target, tmp_path):
    paths = sorted((CORPUS / target).iterdir())
    assert paths
    for path in paths:
        try:
            run_input(target, path.read_bytes(), tmp_path / "input")
        except Exception as error:
            raise AssertionError(f"{path.name}: {error!r}") from error
