"""The stubs of the compiled engines say what is there: names by mypy's stubtest, arguments by pybind11's signatures."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = "batchsampler_ext"
Arguments = list[tuple[str, str]]  # (name, kind) of each; the name is "" if it is a matter of the stub alone


def test_the_stub_names_what_the_module_has():
    pytest.importorskip("mypy", reason="of the lint extra")
    result = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", f"{FOLDER}._core"],
        cwd=ROOT, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def functions_in_stub(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and not member.decorator_list:  # no property
                    yield f"{node.name}.{member.name}", member


def arguments_in_stub(function: ast.FunctionDef) -> Arguments:
    named = [argument for argument in function.args.args + function.args.kwonlyargs if argument.arg != "self"]
    found = [("", argument) for argument in function.args.posonlyargs]
    return [(name, kind_in_stub(it.annotation)) for name, it in found + [(it.arg, it) for it in named]]


def kind_in_stub(annotation: ast.expr | None) -> str:
    assert annotation is not None
    text = ast.unparse(annotation)
    kinds = {"Sequence[int]": "sequence"}
    return text if text in ("bool", "int", "float", "str") else kinds.get(text, "object")


def arguments_of_pybind(function: object) -> Arguments:
    signature = str(function.__doc__).splitlines()[0]
    inside = signature[signature.index("(") + 1 : signature.rindex(") ->")]
    parts = [part.partition(": ") for part in re.split(r", (?=\w+: |\*)", inside) if part not in ("", "*")]
    return [
        ("" if re.fullmatch(r"arg\d+", name) else name, kind_of_pybind(kind))
        for name, _, kind in parts
        if name != "self"
    ]


def kind_of_pybind(annotation: str) -> str:
    """Of pybind11 2 and 3, which word what converts to a number each in their way."""
    kinds = {
        "float": r"float|typing\.SupportsFloat",
        "int": r"int|typing\.SupportsInt",
        "sequence": r"(collections\.abc\.|typing\.)?(Sequence|list)",
    }
    for kind, pattern in kinds.items():
        if re.match(rf"({pattern})\b", annotation):
            return kind
    return annotation.partition(" = ")[0]


@pytest.mark.parametrize(("stub", "name"), [("_core", "_core"), ("_cuda", "_cuda"), ("_cuda", "_cuda_emulated")])
def test_the_stub_has_the_arguments_of_the_bindings(stub, name):
    try:
        module: ModuleType = importlib.import_module(f"{FOLDER}.{name}")
    except ImportError:
        pytest.skip(f"built without {name}")
    path = ROOT / FOLDER / f"{stub}.pyi"
    expected, found = {}, {}
    for function, node in functions_in_stub(path):
        owner, _, member = function.rpartition(".")
        expected[function] = arguments_in_stub(node)
        found[function] = arguments_of_pybind(getattr(getattr(module, owner) if owner else module, member))
    assert found == expected
    names = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    values = [node.target.id for node in ast.parse(path.read_text()).body if isinstance(node, ast.AnnAssign)]
    assert {node.name for node in names} | set(values) == {it for it in vars(module) if not it.startswith("_")}
