"""Each argument of the public API takes any value: it is obeyed, or refused by an error that names an argument."""

from __future__ import annotations

import collections
import decimal
import fractions
import inspect
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import batchsampler_ext
from batchsampler_ext import knn_graph
from tests.fuzz.calls import Call, all_calls
from tests.fuzz.checks import N, embeddings, valid_bank, valid_plan
from tests.fuzz.objects import OTHERS

CALLS = all_calls()


def nested(parts: list[torch.Tensor]) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this layout may change
        return torch.nested.nested_tensor(parts)


X = embeddings()
MASKED = np.ma.masked_array(np.arange(N), mask=np.arange(N) < 3)
WORDS = {
    "word": "a",
    "no word": "",
    "surrogate": "\ud800",
    "null byte": "a\0b",
    "bytes": b"a",
    "NumPy word": np.str_("b3"),
}
NUMBERS = {
    "-1": -1, "0": 0, "1": 1, "2**63": 2**63, "2**64": 2**64, "10**400": 10**400, "-10**400": -(10**400),
    "True": True, "nan": math.nan, "1e39": 1e39, "1e300": 1e300,
    "inf": math.inf, "-inf": -math.inf, "1j": 1j, "NumPy nan": np.float64("nan"),
    "NumPy int": np.int64(3), "NumPy bool": np.bool_(True), "fraction": fractions.Fraction(1, 3),
    "decimal": decimal.Decimal("0.3"), "decimal nan": decimal.Decimal("nan"), "signaling": decimal.Decimal("snan"),
}  # fmt: skip
LISTS = {
    "[]": [], "[1]": [1], "[[1]]": [[1]], "[None]": [None], "ragged": [[1], [1, 2]], "[nan]": [math.nan],
    "words": ["a"] * N, "floats": [0.5] * N, "(3, 1)": (3, 1), "(-1, 5)": (-1, 5), "(1.5, 3.5)": (1.5, 3.5),
    "(1, 2, 3)": (1, 2, 3), "(0, 2**80)": (0, 2**80), "range": range(3), "long range": range(2**70), "set": {1},
    "memory": memoryview(b"abcd"), "matrix memory": memoryview(np.zeros((2, 2))), 
    "memory of one": memoryview(np.array(4)),
}  # fmt: skip
DICTS = {
    "{}": {}, "{0: 1}": {0: 1}, "{0: nan}": {0: math.nan}, "{0: 10**400}": {0: 10**400}, "{2**70: 1}": {2**70: 1.0},
    "{0: (1, 3)}": {0: (1, 3)}, "{'0': (1, 3)}": {"0": (1, 3)}, "{0: (1,)}": {0: (1,)},
    "{0: None, 5: None}": {0: None, 5: None},
    "counter": collections.Counter({1: 2}),
}  # fmt: skip
ARRAYS = {
    "two": np.array([1, 2]), "one": np.array([1]), "no dimension": np.array(1), "words": np.array(["a"]),
    "objects": np.array([object()], dtype=object), "dates": np.array(["2020-01-01"], "M8[D]"),
    "records": np.zeros(3, [("a", "i4")]), "huge ids": np.full(N, 2**64 - 1, np.uint64), "masked": MASKED,
}  # fmt: skip
TENSORS = {
    "tensor of two": torch.tensor([1, 2]), "tensor 3": torch.tensor(3), "tensor [3]": torch.tensor([3]),
    "tensor .5": torch.tensor(0.5), "meta": torch.empty(N, 4, device="meta"), "sparse": torch.eye(N).to_sparse(),
    "empty": torch.empty(0), "no ids": torch.empty(0, dtype=torch.int64), "float ids": torch.arange(float(N)),
    "ids": torch.arange(N), "two columns": torch.arange(2 * N).view(N, 2), "column": torch.arange(N)[:, None],
    "mask": torch.ones(N, dtype=torch.bool), "complex": torch.zeros(N, 4, dtype=torch.complex64),
    "meta ids": torch.arange(N, device="meta"), "meta 3": torch.tensor(3, device="meta"),
    "sparse ids": torch.arange(N).to_sparse(), "nested rows": nested([X[:2], X[:3]]),
    "many nested": nested([torch.arange(200)]), "nested ids": nested([torch.arange(2), torch.arange(3)]),
    "nested": torch.nested.nested_tensor([torch.arange(2), torch.arange(3)], layout=torch.jagged),
    "float64": embeddings().double(), "float8": embeddings().to(torch.float8_e4m3fn),
}  # fmt: skip
OBJECTS = {
    "None": None, "object": object(), "error": ValueError("a"), "function": lambda *given: None, "int": int,
    "list": list,
    "dtype": torch.float16, "device": torch.device("cpu"), "path": Path("absent/file"),
}  # fmt: skip
VALUES: dict[str, Any] = {**WORDS, **NUMBERS, **LISTS, **DICTS, **ARRAYS, **TENSORS, **OBJECTS}
FUNCTIONS = {"progress", "encode_fn", "restart_prob"}  # whose own errors pass through


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    valid_bank().save("bank")
    valid_plan().save("plan")
    knn_graph(embeddings(), 3).save("graph")


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_values_are_obeyed_or_refused_by_name(number):
    call = CALLS[number]
    call.function(**call.options)
    wrong = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in call.options:
            for kind, value in VALUES.items():
                if name not in FUNCTIONS or kind not in ("int", "list", "function"):
                    found = wrong_error(call, name, value)
                    wrong |= {f"{name}={kind}": found} if found else {}
    assert not wrong


def test_calls_have_all_arguments():
    """A new argument goes to tests/fuzz/calls.py."""
    known = {name for call in CALLS for name in call.options}
    made_by_the_package = {"Plan", "PlanRequest", "BatchPlanner", "Neighbors", "SamplerStats", "Walks"}
    for public in set(batchsampler_ext.__all__) - made_by_the_package:
        found = getattr(batchsampler_ext, public)
        names = set(inspect.signature(found.__init__ if isinstance(found, type) else found).parameters)
        assert names <= known | {"self", "process_group"}, public


def wrong_error(call: Call, name: str, value: Any) -> str:
    """Returns the error of a call with one value exchanged, if it is not a refusal that names an argument."""
    names = "|".join({*map(re.escape, call.options), *OTHERS, "path", "plan"})
    try:
        call.function(**{**call.options, name: value})
    except (TypeError, ValueError) as error:
        return "" if re.match(rf"({names})(\[[\d, ]*\])?: ", f"{error}: ") else repr(error)
    except FileNotFoundError as error:
        return "" if name in ("path", "plan") else repr(error)
    except Exception as error:
        return repr(error)
    return ""
