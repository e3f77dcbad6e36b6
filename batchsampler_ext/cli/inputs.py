"""Reads matrices of embeddings: .npy, .parquet, .safetensors and files of torch.save."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from .._engine.arrays import as_ids, as_int64
from .._engine.checked_file import record_sizes
from .._engine.files import npy_content, refuse_pipe
from ..graph import ProximityGraph

__all__ = [
    "IDS_HELP",
    "MATRIX_HELP",
    "EmbeddingMatrix",
    "add_input_options",
    "import_pyarrow",
    "load_array",
    "load_graph",
    "load_ids",
    "load_labels",
    "load_matrix",
    "reading",
    "require_no_input",
]

EmbeddingMatrix: TypeAlias = np.ndarray | torch.Tensor
_ROWS_AT_ONCE = 1 << 14
_DTYPES = {torch.float32, torch.float16, torch.bfloat16}
_NO_BYTEARRAY = re.compile(r"(?!.* bytearray$).*")  # of the types that torch allows, the one that fills any memory
MATRIX_HELP = (
    ".npy (mapped into memory), .parquet with a column of vectors, .safetensors or a file of torch.save (.pt, .pth)"
)


def add_input_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--column", help="column of vectors in a .parquet file; default: the only one")
    parser.add_argument("--tensor", help="name of the matrix in a .safetensors or torch file; default: the only one")


def load_matrix(path: str, name: str, *, column: str | None = None, tensor: str | None = None) -> EmbeddingMatrix:
    """Returns a matrix [N, D] of float32 or float16 (.safetensors and torch files: bfloat16, too) on the CPU.

    .npy, .safetensors and torch files are mapped into memory. A parquet column is read, as float32 unless
    it is float16.

    Args:
        name: of the argument, for errors.
        column: of a parquet file. None: its only column of vectors.
        tensor: name of a tensor in a .safetensors or torch file. None: its only matrix.

    Raises:
        ValueError: the file cannot be read, or has no such matrix. It names argument and file.
        ModuleNotFoundError: pyarrow is not installed.
    """
    suffix = Path(path).suffix.lower()
    reader, option = _READERS.get(suffix, (_from_npy, None))
    for given, label in ((column, "--column"), (tensor, "--tensor")):
        if given is not None and label != option:
            raise ValueError(f"{name}: expected no {label} for a {suffix} file, got {given!r} and {path!r}")
    refuse_pipe(path, name)
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ValueError(f"{name}: expected a readable file, got {path!r} ({error.strerror or error})") from None
    return reader(path, name, column if option == "--column" else tensor)


@contextmanager
def reading(path: str, name: str, kind: str) -> Iterator[None]:
    """Raises ``ValueError`` for all that a library raises in the block: damaged files cause errors of many classes.

    Args:
        name: of the argument.
        kind: of file that is expected, with its article.
    """
    try:
        yield
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{name}: expected {kind}, got {path!r} ({reason:.300})") from None


def load_labels(path: str, num_rows: int) -> torch.Tensor:
    """Returns int64 [N] labels, -1 = unknown."""
    labels = as_ids(load_array(path, "--labels", "array of integers"), "--labels", -1, 2**63)
    if len(labels) != num_rows:
        raise ValueError(f"--labels: expected one for each of {num_rows} instances, got {len(labels)}")
    return labels


IDS_HELP = ".npy, or FILE.parquet with one column of integers, or FILE.parquet:COLUMN"


def split_columns(path: str) -> tuple[str, list[str]]:
    """Returns the file and the columns of FILE.parquet:COLUMN[,COLUMN]. No columns are named if there is none."""
    found = re.fullmatch(r"(.*\.parquet):(.+)", path, re.IGNORECASE | re.DOTALL)
    return (found[1], found[2].split(",")) if found else (path, [])


def load_ids(path: str, name: str, *, num_columns: int | None = 1) -> np.ndarray:
    """Returns the array of a .npy file, or int64 columns of a .parquet file: [N], or [N, C] unless num_columns is 1.

    Args:
        path: FILE, or FILE.parquet:COLUMN[,COLUMN]. Without names, the file has to have num_columns columns of
            integers. Indexes that pandas has written do not count.
        name: of the option, for errors.
        num_columns: C. None: as many as are named, or one.

    Raises:
        ValueError: the file cannot be read, has no such column, or a missing value. It names argument and file.
        ModuleNotFoundError: pyarrow is not installed.
    """
    path, columns = split_columns(path)
    if Path(path).suffix.lower() != ".parquet":
        return load_array(path, name, "array of integers")
    pyarrow = import_pyarrow(name)
    refuse_pipe(path, name)
    with reading(path, name, "a parquet file"):
        schema = pyarrow.parquet.read_schema(path)
        integers = [field.name for field in schema if pyarrow.types.is_integer(field.type)]
    columns = _chosen_integers(columns, schema.names, integers, num_columns, path, name)
    with reading(path, name, "a parquet file"):
        table = pyarrow.parquet.read_table(path, columns=columns)
    arrays = []
    for label in columns:
        column = table.column(label)
        if column.null_count:
            raise ValueError(
                f"{name}: expected integers, got {column.null_count} missing values in column {label!r} of {path!r}"
            )
        arrays.append(as_int64(column.to_numpy(), name))
    return arrays[0] if num_columns == 1 else np.stack(arrays, axis=1)


def _chosen_integers(
    given: list[str], names: list[str], integers: list[str], num_columns: int | None, path: str, name: str
) -> list[str]:
    """Returns the columns that are named in ``given``, or those of integers."""
    for column in given:
        if column not in integers:
            content = "other values" if column in names else f"none; it has {_listed(names)}"
            raise ValueError(f"{name}: expected integers in column {column!r} of {path!r}, got {content}")
    found = given or [column for column in integers if not re.fullmatch(r"__index_level_\d+__", column)]
    if len(found) != (num_columns or len(given) or 1):
        count = {1: "one column", 2: "two columns"}[num_columns or 1]
        advice = f"; choose with {path}:COLUMN" if len(found) > (num_columns or 1) and not given else ""
        raise ValueError(f"{name}: expected {count} of integers in {path!r}, got {_listed(found) or 'none'}{advice}")
    return found


def load_graph(path: str, name: str) -> Any:
    """Returns the array of neighbors in a .npy file, or the graph in a file of :meth:`ProximityGraph.save`."""
    if Path(path).suffix.lower() != ".npz":
        return load_array(path, name, "array of neighbors", mmap_mode="r")
    try:
        return ProximityGraph.load(path)
    except OSError as error:
        raise ValueError(f"{name}: expected a readable file, got {path!r} ({error.strerror or error})") from None
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).removeprefix('path: ')}") from None


def require_no_input(out: str, name: str, inputs: Mapping[str, str | None]) -> None:
    """Raises ``ValueError`` if an output is the file of an input, or of another output.

    name: of the output. inputs: name -> path or None.
    """
    for other, given in inputs.items():
        if given is None:
            continue
        path = split_columns(given)[0]
        is_same = os.path.realpath(path) == os.path.realpath(out)
        if is_same or (os.path.exists(path) and os.path.exists(out) and os.path.samefile(path, out)):
            raise ValueError(f"{name}: expected another file than {other}, got {out!r}, which would be overwritten")


def load_array(path: str, name: str, content: str, **options: Any) -> np.ndarray:
    refuse_pipe(path, name)
    try:
        with open(path, "rb") as file:
            if file.read(6) == b"\x93NUMPY":
                file.seek(0)
                npy_content(file, os.fstat(file.fileno()).st_size)
        array = np.load(path, allow_pickle=False, **options)
    except OSError as error:
        raise ValueError(f"{name}: expected a readable file, got {path!r} ({error.strerror or error})") from None
    except Exception as error:  # of many classes
        raise ValueError(f"{name}: expected a .npy {content}, got {path!r} ({error})") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name}: expected one array in a .npy file, got an archive: {path!r}")
    return array


def import_pyarrow(purpose: str) -> Any:
    """Returns the package pyarrow with ``pyarrow.parquet``. purpose: text for the error message."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise ModuleNotFoundError(
            f"{purpose}: expected pyarrow to be installed, got none; run pip install 'batchsampler_ext[parquet]'"
        ) from None
    return pyarrow


def _from_npy(path: str, name: str, _: str | None) -> np.ndarray:
    matrix = load_array(path, name, "matrix", mmap_mode="r")
    save = f'np.save("converted.npy", np.load("{path}")'
    if matrix.ndim != 2:
        advice = f"; reshape it: {save}.reshape({len(matrix)}, -1))" if matrix.ndim > 2 else ""
        raise ValueError(f"{name}: expected a matrix [N, D], got shape {list(matrix.shape)} in {path!r}{advice}")
    if matrix.dtype not in (np.float32, np.float16):  # native byte order too
        raise ValueError(
            f"{name}: expected float32 or float16, got {matrix.dtype} in {path!r}; convert it: "
            f"{save}.astype(np.float32))"
        )
    if not matrix.flags.c_contiguous:  # each call of the engine would copy all of it
        raise ValueError(
            f'{name}: expected row-major order, got Fortran order in {path!r}; convert it: {save}.copy("C"))'
        )
    return matrix


def _from_safetensors(path: str, name: str, tensor: str | None) -> torch.Tensor:
    import safetensors

    with ExitStack() as stack:
        with reading(path, name, "a safetensors file"):
            file = stack.enter_context(safetensors.safe_open(path, framework="pt"))
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 (no mapping)
        matrices = [key for key, shape in shapes.items() if len(shape) == 2]
        found = _chosen(tensor, list(shapes), matrices, "tensor", path, name)
        with reading(path, name, "a safetensors file"):
            matrix = file.get_tensor(found)
    return _checked_tensor(matrix, path, name)


def _from_torch(path: str, name: str, tensor: str | None) -> torch.Tensor:
    with reading(path, name, "a file of torch.save with tensors only"):
        content = _load_torch(path)
    if isinstance(content, dict):
        matrices = [key for key, value in content.items() if isinstance(value, torch.Tensor) and value.ndim == 2]
        content = content[_chosen(tensor, list(content), matrices, "tensor", path, name)]
    elif tensor is not None:
        raise ValueError(f"{name}: expected a dict with {tensor!r}, got {type(content).__name__} in {path!r}")
    if not isinstance(content, torch.Tensor):
        raise ValueError(f"{name}: expected a tensor, got {type(content).__name__} in {path!r}")
    return _checked_tensor(content.detach(), path, name)


def _load_torch(path: str) -> Any:
    """Returns the content of a file of torch.save. No part of it takes memory for what the file does not have."""
    with open(path, "rb") as file:
        record_sizes(file, _NO_BYTEARRAY)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _checked_tensor(tensor: torch.Tensor, path: str, name: str) -> torch.Tensor:
    if tensor.ndim != 2:
        raise ValueError(f"{name}: expected a matrix [N, D], got shape {list(tensor.shape)} in {path!r}")
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"{name}: expected float32, float16 or bfloat16, got {tensor.dtype} in {path!r}")
    if tensor.numel() * tensor.element_size() > os.path.getsize(path):  # a row repeated, or memory without data
        raise ValueError(f"{name}: expected a matrix with all its elements in {path!r}, got {list(tensor.shape)}")
    return tensor


def _from_parquet(path: str, name: str, column: str | None) -> np.ndarray:
    pyarrow = import_pyarrow(name)
    with ExitStack() as stack:
        with reading(path, name, "a parquet file"):
            file = stack.enter_context(pyarrow.parquet.ParquetFile(path, memory_map=True))
            schema = file.schema_arrow
            vectors = [field.name for field in schema if _is_vector(pyarrow, field.type)]
        chosen = _chosen(column, schema.names, vectors, "column", path, name)
        kind = schema.field(chosen).type
        if chosen not in vectors:
            raise ValueError(
                f"{name}: expected a column of lists of floats, got {kind} in column {chosen!r} of {path!r}"
            )
        dtype = np.float16 if kind.value_type == pyarrow.float16() else np.float32
        rows, done = np.empty((0, 0), dtype), 0
        for column_part in _parts_of_column(file, chosen, path, name):
            part = _rows_of(pyarrow, column_part, done, path, name)
            if done == 0:
                with reading(path, name, "a parquet file"):  # a damaged one claims any number of rows
                    rows = np.empty((file.metadata.num_rows, part.shape[1]), dtype)
            if part.shape[1] != rows.shape[1]:
                raise _other_length(rows.shape[1], part.shape[1], done, path, name)
            done += len(part)
            if done > len(rows):
                break
            rows[done - len(part) : done] = part
        if done != len(rows):
            raise ValueError(f"{name}: expected a parquet file, got a damaged one with other numbers of rows, {path!r}")
    return rows


def _parts_of_column(file: Any, column: str, path: str, name: str) -> Iterator[Any]:
    with reading(path, name, "a parquet file"):
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[column]):
            batch.validate(full=True)  # offsets of lists in a damaged file may be beyond its values
            yield batch.column(0)


def _is_vector(pyarrow: Any, kind: Any) -> bool:
    types = pyarrow.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and types.is_floating(kind.value_type)


def _rows_of(pyarrow: Any, column: Any, first: int, path: str, name: str) -> np.ndarray:
    """Returns the lists of a column as a matrix. first: number of its first row, for errors."""
    if column.null_count:
        wrong = first + column.is_null().index(True).as_py()
        raise ValueError(f"{name}: expected a vector in each row, got none in row {wrong} of {path!r}")
    lengths = pyarrow.compute.list_value_length(column).to_numpy(zero_copy_only=False)
    if len(lengths) and (lengths != lengths[0]).any():
        row = int((lengths != lengths[0]).argmax())
        raise _other_length(int(lengths[0]), int(lengths[row]), first + row, path, name)
    values = column.flatten()
    if values.null_count:
        wrong = first + values.is_null().index(True).as_py() // int(lengths[0])
        raise ValueError(f"{name}: expected numbers, got a missing value in row {wrong} of {path!r}")
    return values.to_numpy(zero_copy_only=False).reshape(len(lengths), -1)


def _other_length(expected: int, found: int, row: int, path: str, name: str) -> ValueError:
    return ValueError(f"{name}: expected vectors of length {expected}, got {found} in row {row} of {path!r}")


def _chosen(given: str | None, names: list[Any], matrices: list[Any], kind: str, path: str, name: str) -> Any:
    """Returns the name of a tensor or column."""
    if given is not None:
        if given not in names:
            raise ValueError(f"{name}: expected --{kind} to be one of {_listed(names)} in {path!r}, got {given!r}")
        return given
    if len(matrices) != 1:
        found = f"{len(matrices)} ({_listed(matrices)}); choose one with --{kind}" if matrices else "none"
        content = "matrix" if kind == "tensor" else "column of vectors"
        raise ValueError(f"{name}: expected one {content} in {path!r}, got {found}")
    return matrices[0]


def _listed(names: list[Any]) -> str:
    return ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")


_READERS: dict[str, tuple[Callable[[str, str, str | None], EmbeddingMatrix], str | None]] = {
    ".npy": (_from_npy, None),
    ".parquet": (_from_parquet, "--column"),
    ".safetensors": (_from_safetensors, "--tensor"),
    ".pt": (_from_torch, "--tensor"),
    ".pth": (_from_torch, "--tensor"),
}
