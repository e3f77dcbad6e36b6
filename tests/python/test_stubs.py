"""The stub of the compiled engine says what is there: names by mypy's stubtest, arguments by pybind11's signatures."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batchsampler_ext import _core

ROOT = Path(__file__).parent.parent
STUB = ROOT / "batchsampler_ext/_core.pyi"


def test_the_stub_names_what_the_module_has():
    pytest.importorskip("mypy", reason="of the lint extra")
    result = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "batchsampler_ext._core"],
        cwd=ROOT, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def kind_in_stub(annotation: ast.expr) -> str:
    text = ast.unparse(annotation)
    if text in ("bool", "int", "float", "str"):
        return text
    return "tuple" if text in ("_Matrix", "_Graph") else "object"


def kind_of_pybind(annotation: str) -> str:
    """Of pybind11 2 and 3, which words what converts to a number its own way."""
    for kind, pattern in (("float", r"float|typing\.SupportsFloat"), ("int", r"int|typing\.SupportsInt")):
        if re.match(rf"({pattern})\b", annotation):
            return kind
    return annotation


def arguments_in_stub() -> dict[str, list[tuple[str, str]]]:
    """(name, kind) of each argument of each function; "" for the name of a positional one."""
    functions = [node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.FunctionDef)]
    result = {}
    for function in functions:
        assert all(argument.annotation is not None for argument in function.args.args + function.args.kwonlyargs)
        positional = [("", argument) for argument in function.args.posonlyargs + function.args.args]
        named = [(argument.arg, argument) for argument in function.args.kwonlyargs]
        result[function.name] = [(name, kind_in_stub(argument.annotation)) for name, argument in positional + named]
    return result


def arguments_of_pybind(function: object) -> list[tuple[str, str]]:
    signature = str(function.__doc__).splitlines()[0]
    inside = signature[signature.index("(") + 1 : signature.rindex(") ->")]
    parts = [part.partition(": ") for part in re.split(r", (?=\w+: |\*)", inside) if part not in ("", "*")]
    return [("" if re.fullmatch(r"arg\d+", name) else name, kind_of_pybind(kind)) for name, _, kind in parts]


@pytest.mark.parametrize("name", sorted(arguments_in_stub()))
def test_the_stub_has_the_arguments_of_the_binding(name):
    assert arguments_in_stub()[name] == arguments_of_pybind(getattr(_core, name))
