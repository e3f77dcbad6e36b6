"""Targets that read files.

An input is either the file itself, or changes of the content of a valid file, which is then written with right
checksums. So what lies behind checksums is reached, too.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import struct
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batchsampler_ext import (
    FeatureBank,
    Plan,
    PlannedBatchSampler,
    ProximityBatchSampler,
    ProximityGraph,
    proximity_graph,
    sample_batches,
)
from batchsampler_ext._bank.files import Tables, described
from batchsampler_ext._engine.arrays import address
from batchsampler_ext._engine.backend import core
from batchsampler_ext._engine.checked_file import _checksum, load_checked
from batchsampler_ext.cli.inputs import load_graph, load_ids, load_matrix

from .checks import (
    MAX_INPUT,
    B,
    D,
    N,
    embeddings,
    refusing,
    require_batches,
    require_graph,
    require_prefixes,
    same,
    valid_bank,
    valid_plan,
    written,
)
from .source import Source, is_plain


def members_to_zip(data: bytes) -> bytes:
    """Returns an archive with right checksums.

    data: for each member a byte of length, its name, two bytes of length, its content.
    """
    file, source = io.BytesIO(), io.BytesIO(data)
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # repeated names
        for _ in range(40):
            length = source.read(1)
            if not length:
                break
            name = source.read(length[0]).decode("latin-1").replace("\0", "_") or "_"
            size = int.from_bytes(source.read(2), "little")
            archive.writestr(name, source.read(size))
    return file.getvalue()


def valid_graph() -> ProximityGraph:
    return proximity_graph(embeddings(), 4, num_candidates=9, rows=torch.arange(3, 20), return_scores=True)


def graph_file(data: bytes, folder: Path) -> None:
    source = Source(data)
    mode = source.below(3)
    if mode == 0:
        content = source.rest()
    elif mode == 1:
        content = members_to_zip(source.rest())
    else:
        graph, file = valid_graph(), io.BytesIO()
        tables = {"neighbors": graph.neighbors, "scores": graph.scores, "ids": graph.ids}
        arrays: Any = {"format": 1, "num_instances": N, **tables}
        for _ in range(1 + source.below(3)):
            arrays = source.edited(arrays)
            if not isinstance(arrays, dict):
                return
        try:
            np.savez(file, **{name.replace("\0", ""): np.asarray(value) for name, value in arrays.items()})
        except Exception:
            return  # no arrays
        content = file.getvalue()
    path = written(folder, content)
    with refusing("path") as refused:
        graph = ProximityGraph.load(path)
    if refused:
        return
    require_graph(graph)
    graph.save(folder / "again")
    again = ProximityGraph.load(folder / "again")
    assert torch.equal(graph.neighbors, again.neighbors)
    assert graph.num_instances == again.num_instances
    if graph.num_instances > 1 << 16 or len(graph) > 1 << 10:
        return
    assert graph.stats().num_rows == len(graph)
    for planner in ("partition", "walks", "cover_by_walks", "uniform"):
        with refusing("graph"):  # neighbors without a row
            require_batches(sample_batches(graph, B, planner=planner), graph.num_instances, planner == "partition")
    require_graph(graph.mutual())


def content_of_plan(data: bytes) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Returns description and tensors of a plan's file."""
    import safetensors.torch

    length = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["plan"]), safetensors.torch.load(data)


_NAMES = {torch.int32: "I32", torch.int64: "I64", torch.bool: "BOOL", torch.float32: "F32", torch.uint8: "U8"}


def plan_bytes(description: Any, tensors: dict[str, torch.Tensor]) -> bytes:
    """Returns the file of a plan whose checksums are right, unless the description has no place for them."""
    layout, content = {}, b""
    for name, tensor in tensors.items():
        plain = tensor.clone(memory_format=torch.contiguous_format).reshape(-1)
        raw = bytes(plain.view(torch.uint8).numpy()) if tensor.numel() else b""
        offsets = [len(content), len(content) + len(raw)]
        layout[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        content += raw
        with contextlib.suppress(LookupError, TypeError):
            description["tensors"][name][2] = zlib.crc32(raw)
    text = json.dumps(description)
    head = json.dumps({"__metadata__": {"plan": text, "checksum": str(zlib.crc32(text.encode()))}, **layout}).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + content


@functools.cache
def valid_plan_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        valid_plan().save(Path(folder, "plan"))
        return Path(folder, "plan").read_bytes()


def changed_plan(source: Source, follows_tensors: bool) -> bytes:
    """Returns a valid plan after some changes. Raises ``ValueError`` for what no file can hold.

    follows_tensors: dtypes and shapes in the description are those of the tensors, whatever these are.
    """
    description, tensors = content_of_plan(valid_plan_bytes())
    for _ in range(1 + source.below(3)):
        if source.below(2):
            description = {**description, "header": source.edited(description.get("header"), only_json=True)}
        else:
            tensors = source.edited(tensors)
            if not isinstance(tensors, dict):
                raise ValueError("no dict")
    tensors = {name: part for name, part in tensors.items() if is_plain(part) and part.dtype in _NAMES}
    if follows_tensors:
        description["tensors"] = {name: [str(part.dtype), list(part.shape), 0] for name, part in tensors.items()}
    return plan_bytes(description, tensors)


def plan_file(data: bytes, folder: Path) -> None:
    source = Source(data)
    mode = source.below(4)
    if mode == 0:
        content = source.rest()
    elif mode == 1:  # any text in the place of the description
        content = plan_bytes_of_text(source.rest(), content_of_plan(valid_plan_bytes())[1])
    else:
        try:
            content = changed_plan(source, follows_tensors=mode == 2)
        except (ValueError, OverflowError):
            return
    path = written(folder, content)
    with refusing("path") as refused:
        plan = Plan.load(path)
    if not refused:
        use_plan(plan, path, folder)


def plan_bytes_of_text(text: bytes, tensors: dict[str, torch.Tensor]) -> bytes:
    content = plan_bytes("", tensors)
    length = int.from_bytes(content[:8], "little")
    layout = json.loads(content[8 : 8 + length])
    decoded = text.decode("utf-8", "replace")
    layout["__metadata__"] = {"plan": decoded, "checksum": str(zlib.crc32(decoded.encode()))}
    head = json.dumps(layout).encode()
    return len(head).to_bytes(8, "little") + head + content[8 + length :]


def use_plan(plan: Plan, path: Path, folder: Path) -> None:
    """Calls all that reads a plan."""
    size = plan.num_instances
    is_intact = True
    for epoch in range(min(plan.num_epochs, 4)):
        with refusing("path") as refused:
            batches = list(plan.batches(epoch))
            sources = plan.sources(epoch)
            require_batches(batches, size, True)
            assert sources is None or len(sources) == len(batches), "sources of other batches"
        is_intact &= not refused
    with refusing("path") as refused:
        ids = range(min(size, 20))
        mask = plan.negative_mask(ids)
        assert (mask.dtype, list(mask.shape)) == (torch.bool, [len(ids)] * 2)
        assert not bool(mask.diagonal().any())
    is_intact &= not refused
    with refusing("path", "num_hard_negatives") as refused:
        table = plan.hard_negatives()
        assert (table.dtype, len(table)) == (torch.int64, size)
        require_prefixes(table, size)
    if not is_intact:
        return
    if size == N:
        with refusing("path", "queries", "documents"):
            assert str(plan.report(embeddings(), embeddings(1)))
    for num_replicas in (1, 2):
        with refusing("path", "plan") as refused:
            sampler = PlannedBatchSampler(path, rank=0, num_replicas=num_replicas)
            found = [batch for _ in range(2) for batch in sampler]
            assert all(0 <= i < size for batch in found for i in batch)
            sampler.load_state_dict(sampler.state_dict())
    with refusing("path") as refused:
        plan.save(folder / "again")
        again = Plan.load(folder / "again")
        assert again.info == plan.info or json.dumps(again.info) == json.dumps(plan.info)
        assert again._digest() == plan._digest()


SUFFIXES = ["", ".json", ".last_update", ".checksums", ".documents"]


@functools.cache
def valid_bank_files() -> list[bytes]:
    """Returns the content of the files with these suffixes."""
    with tempfile.TemporaryDirectory() as folder:
        valid_bank(path=Path(folder, "bank"))
        return [Path(folder, f"bank{suffix}").read_bytes() for suffix in SUFFIXES]


def set_checksums(path: Path) -> None:
    """Makes the checksums of rows right, if the files have the sizes of a bank."""
    kinds = {
        "": (torch.bfloat16, (N, D)),
        ".documents": (torch.bfloat16, (N, D)),
        ".last_update": (torch.int64, (N,)),
        ".checksums": (torch.int64, (N,)),
    }
    paths = [Path(f"{path}{suffix}") for suffix in kinds]
    sizes = [torch.Size(shape).numel() for _, shape in kinds.values()]
    bytes_expected = [size * dtype.itemsize for size, (dtype, _) in zip(sizes, kinds.values(), strict=True)]
    if [part.stat().st_size if part.exists() else -1 for part in paths] != bytes_expected:
        return
    data, documents, last_update, checksums = (
        torch.from_file(str(part), shared=True, size=size, dtype=dtype).view(shape)
        for part, size, (dtype, shape) in zip(paths, sizes, kinds.values(), strict=True)
    )
    core.bank_row_checksums(described(Tables(data, documents, last_update)), out=address(checksums))


def bank_files(data: bytes, folder: Path) -> None:
    source = Source(data)
    path = folder / "bank"
    for suffix, content in zip(SUFFIXES, valid_bank_files(), strict=True):
        Path(f"{path}{suffix}").write_bytes(content)
    has_right_checksums = bool(source.below(2))
    for _ in range(1 + source.below(4)):
        name = Path(f"{path}{source.choice(SUFFIXES)}")
        edit_bytes(name, source)
    if has_right_checksums:
        set_checksums(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with refusing("path"), contextlib.suppress(OSError):
            bank = FeatureBank(N, D, two_towers=True, path=path)
            assert all(-1 <= step < 2**62 for step in bank.last_update.tolist())
            with refusing("features", "documents"):  # checksums may be right for nan
                rows = bank.rows_for_graph()
                require_graph(proximity_graph(rows.features, 2, documents=rows.documents))
            before = {name: copy.deepcopy(part) for name, part in bank.state_dict().items()}
            del bank
            again = FeatureBank(N, D, two_towers=True, path=path)
            assert same(before, again.state_dict()), "another content when opened again"
            again.update([0, 23], embeddings()[:2], embeddings()[:2])
            again.stats()
            with refusing("state"):
                again.load_state_dict(again.state_dict())


def edit_bytes(path: Path, source: Source) -> None:
    if not path.exists():
        return
    content, action = bytearray(path.read_bytes()), source.below(6)
    place = source.below(max(1, len(content)))
    if action == 0:
        del content[place:]
    elif action == 1:
        content += bytes(source.below(64))
    elif action == 2:
        content[place : place + 8] = struct.pack("<q", min(max(source.integer(), -(2**63)), 2**63 - 1))
    elif action == 3 and content:
        content[place] ^= 1 << source.below(8)
    elif action == 4 and path.suffix == ".json":
        content = bytearray(json.dumps(source.edited(json.loads(valid_bank_files()[1]), only_json=True)).encode())
    elif action == 4:
        content = bytearray(source.rest())
    else:
        path.unlink()
        return
    path.write_bytes(content)


def checked_file(data: bytes, folder: Path) -> None:
    """Files of FeatureBank.save, and checkpoints of trainers."""
    source = Source(data)
    mode = source.below(4)
    if mode == 0:
        content = source.rest()
    elif mode == 1:
        content = members_to_zip(source.rest())
    else:
        saved: Any = valid_bank().state_dict()
        if mode == 3:
            sampler = ProximityBatchSampler(N, B, bank=FeatureBank(N, D))
            next(iter(sampler))
            saved = {"": {"bank": saved, "sampler": sampler.state_dict()}}
        for _ in range(1 + source.below(3)):
            saved = source.edited(saved)
        file = io.BytesIO()
        try:
            torch.save({"version": 1, "content": saved, "checksum": _checksum(saved)}, file)
        except Exception:
            return  # nothing that can be saved
        content = file.getvalue()
    if len(content) > 2 * MAX_INPUT:
        return
    path = written(folder, content)
    with refusing(r"(a damaged file|no file of version)(?s:.*)") as refused:
        load_checked(path)
    bank = valid_bank()
    before = copy.deepcopy(bank.state_dict())
    with refusing("path", "state", "state: step", "state: num_skipped") as refused:
        bank.load(path)
    if refused:
        assert same(before, bank.state_dict()), "changed by a state that was refused"
        return
    bank.save(folder / "again")
    again = valid_bank()
    again.load(folder / "again")
    assert same(bank.state_dict(), again.state_dict())
    bank.update([1], embeddings()[:1], embeddings()[:1])


def input_file(data: bytes, folder: Path) -> None:
    """Matrices and ids of the commands."""
    source = Source(data)
    suffix = source.choice([".npy", ".safetensors", ".parquet", ".npz", ".pt"])
    content = source.rest()
    path = str(written(folder, content, "file" + suffix))
    # Parquet compresses, so a small file may hold many rows. torch reserves what a file of its old format claims.
    with refusing("queries", may_lack_memory=suffix in (".parquet", ".pt")) as refused:
        matrix = load_matrix(path, "queries") if suffix != ".npz" else torch.zeros(1, 1)
    if not refused:
        assert matrix.ndim == 2
        assert suffix != ".pt" or matrix.numel() <= len(content)
    with refusing("--unique"):
        if suffix in (".npy", ".parquet"):
            load_ids(path, "--unique")
    with refusing("--graph"):
        if suffix in (".npy", ".npz"):
            load_graph(path, "--graph")
