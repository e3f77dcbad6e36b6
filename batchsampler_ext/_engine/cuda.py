"""The calls of ``_core``, queued on a CUDA device: scratch, the current stream, and errors that are found later.

A kernel that finds a bad value writes it to a status word in device memory. No call waits for that. The status goes
with the result and is read when results are read on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from . import requests

_WALK, _UNIFORM = 0, 4  # the codes of csrc/common/strategy.h that run on a device


class DeviceStatus:
    """The errors that kernels have reported, or will report."""

    def __init__(self, words: torch.Tensor, message: Callable[[torch.Tensor], str]) -> None:
        self._words: torch.Tensor | None = words
        self._message = message
        self._order = StreamOrder(words.device)  # after the work queued on the current stream so far

    def check(self) -> None:
        """Waits for the work. Raises ``ValueError`` if a kernel found an error."""
        if self._words is None:
            return
        self._order.enter()
        message = self._message(self._words.cpu())
        if message:
            raise ValueError(message)
        self._words = None

    @staticmethod
    def check_all(statuses: list[DeviceStatus]) -> None:
        """As :meth:`check` of each, but waits once. Removes the statuses before the first error, or all."""
        pending = [(status, status._words) for status in statuses if status._words is not None]
        if pending:
            for status, _ in pending:
                status._order.enter()
            found = torch.cat([words.reshape(-1) for _, words in pending]).cpu()
            for (status, _), words in zip(pending, found.split([words.numel() for _, words in pending]), strict=True):
                message = status._message(words)
                if message:
                    del statuses[: statuses.index(status)]
                    raise ValueError(message)
                status._words = None
        statuses.clear()


class StreamOrder:
    """Keeps work on shared tensors in the order of the calls, even if callers use different streams.

    Call ``enter`` before such work is queued or the tensors are returned, and ``leave`` after they are changed. Only
    streams wait, not the host. An order is neither copied nor pickled, because CUDA events cannot be.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event = torch.cuda.Event() if device.type == "cuda" else None
        self.leave()

    def enter(self) -> None:
        if self._event is not None:
            torch.cuda.current_stream(self._device).wait_event(self._event)

    def leave(self) -> None:
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(self._device))


def to_device_async(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Returns ``tensor`` on ``device`` without waiting. For a CUDA device, it is copied by way of new pinned memory."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        staged = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
        return staged.copy_(tensor).to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Returns ``tensor`` on the CPU, copied to pinned memory. Waits for the current stream only."""
    if tensor.device.type == "cpu":
        return tensor
    result = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    result.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return result


class CudaEngine:
    """The calls of ``_core`` on one device. module: _cuda, or in tests _cuda_emulated, whose device is the CPU."""

    is_queued = True
    finds_degrees = False

    def __init__(self, module: Any, device: torch.device) -> None:
        self._module, self._device = module, device

    def proximity_graph(
        self, request: requests.ProximityGraphRequest, edges: requests.Edges, resources: requests.Resources
    ) -> DeviceStatus:
        """As ``_core.proximity_graph``."""
        with self._current():  # a plan depends on the device
            call = self._module.ProximityGraphCall(
                request, has_scores=edges.scores != 0, max_memory=resources.max_memory
            )
        return self._find_edges(call, ("features", "documents"), edges)

    def knn(self, request: requests.KnnRequest, edges: requests.Edges, resources: requests.Resources) -> DeviceStatus:
        """As ``_core.knn``."""
        names = ("features", "documents") if request.exclude_self else ("queries", "base")
        with self._current():
            call = self._module.KnnCall(request, max_memory=resources.max_memory)
        return self._find_edges(call, names, edges)

    def mutual_edges(
        self, request: requests.MutualEdgesRequest, edges: requests.Edges, *, num_threads: int, degrees: int
    ) -> DeviceStatus:
        """As ``_core.mutual_edges``, but an id out of range is reported, and its edge is left out."""
        with self._current():
            status = self._new_status()
            self._module.mutual_edges(
                request, edges, degrees=degrees, status=status.data_ptr(), stream=_stream(self._device)
            )
            return DeviceStatus(status, self._graph_message(request.graph))

    def row_degrees(self, graph: requests.GraphLayout, *, num_threads: int, degrees: int) -> DeviceStatus:
        """As ``_core.row_degrees``."""
        with self._current():
            status = self._new_status()
            self._module.row_degrees(graph, degrees=degrees, status=status.data_ptr(), stream=_stream(self._device))
        return DeviceStatus(status, self._graph_message(graph))

    def walk_batches(self, request: requests.WalkRequest, *, num_threads: int, nodes: int, counts: int) -> DeviceStatus:
        """As ``_core.walk_batches``, but only for walks and uniform batches, on a graph with degrees."""
        if request.finds_degrees:
            raise ValueError("engine: expected a graph with its degrees")
        if request.strategy not in (_WALK, _UNIFORM):
            raise ValueError(
                "order: expected 'rwr', 'rw' or 'uniform' for a graph on a CUDA device; 'bfs', 'dfs' and 'knn' run "
                "on the CPU only: move the graph there, graph.to('cpu')"
            )
        call = self._module.WalkCall(request)
        return self._queue(call, self._graph_message(request.graph), nodes=nodes, counts=counts)

    def partition_epoch(self, request: requests.PartitionRequest, *, num_threads: int, nodes: int) -> int:
        """As ``_core.partition_epoch``. Waits for the device a few dozen times, as later steps depend on its counts."""
        call = self._module.PartitionCall(request)
        walks = self._reference_walks(call.num_reference_walks, request)
        with self._current():
            scratch = torch.empty(call.scratch_bytes, dtype=torch.uint8, device=self._device)
            status = self._new_status()
            first = scratch.data_ptr()

            def read(address: int, count: int) -> list[int]:
                return scratch[address - first : address - first + 8 * count].view(torch.int64).tolist()

            num_filled = call.run(
                walk_nodes=0 if walks is None else walks.data_ptr(),
                nodes=nodes,
                scratch=first,
                status=status.data_ptr(),
                stream=_stream(self._device),
                read=read,
            )
        DeviceStatus(status, self._graph_message(request.graph)).check()
        return num_filled

    def _reference_walks(self, num_walks: int, partition: requests.PartitionRequest) -> torch.Tensor | None:
        """Returns nodes of walks from the first rows of the root order. The partition's status reports their errors."""
        if num_walks == 0:
            return None
        num_rows, seed, epoch = partition.graph.num_rows, partition.seed, partition.epoch
        order = torch.empty(num_rows, dtype=torch.int64, device=self._device)
        self.root_order(n=num_rows, seed=seed, epoch=epoch, out=order.data_ptr())
        nodes = torch.empty((num_walks, partition.batch_size), dtype=torch.int32, device=self._device)
        counts = torch.empty((4, num_walks), dtype=torch.int64, device=self._device)
        ids = torch.arange(num_walks, device=self._device)
        walks = requests.WalkRequest(
            partition.graph, _WALK, order.data_ptr(), ids.data_ptr(), num_walks, partition.batch_size,
            partition.restart_threshold, seed, epoch,
        )  # fmt: skip
        self.walk_batches(walks, num_threads=1, nodes=nodes.data_ptr(), counts=counts.data_ptr())
        return nodes

    def independent_roots(self, **arguments: int) -> None:
        """As ``_core.independent_roots``."""
        with self._current():
            self._module.independent_roots(**arguments, stream=_stream(self._device))

    def root_order(self, **arguments: int) -> None:
        """As ``_core.root_order``."""
        with self._current():
            self._module.root_order(**arguments, stream=_stream(self._device))

    def group_order(self, **arguments: int) -> None:
        """As ``_core.group_order``."""
        with self._current():
            self._module.group_order(**arguments, stream=_stream(self._device))

    def new_bank_error_log(self) -> torch.Tensor:
        """Returns an int64 log for the errors of a bank's updates. csrc/cuda/bank/bank_update.h has its layout."""
        error_log = torch.full((self._module.num_bank_error_log_words,), -1, dtype=torch.int64, device=self._device)
        error_log[-1] = 0
        return error_log

    def update_bank(self, tables: requests.BankTables, **arguments: Any) -> None:
        """As ``_core.update_bank``, but errors are written to the error log."""
        with self._current():
            scratch = torch.empty(self._module.bank_scratch_bytes, dtype=torch.uint8, device=self._device)
            self._module.update_bank(tables, scratch=scratch.data_ptr(), stream=_stream(self._device), **arguments)

    def bank_message(self, error_log: list[int], num_instances: int) -> str:
        """Returns the error of the first refused update, or an empty string if none was refused."""
        words = error_log[: self._module.num_status_words]
        return str(
            self._module.status_message(
                words, num_instances=num_instances, features="embeddings", documents="documents"
            )
        )

    def _find_edges(self, call: Any, names: tuple[str, str], edges: requests.Edges) -> DeviceStatus:
        """Queues a search. names: names of the two matrices in messages."""
        features, documents = names

        def message(words: torch.Tensor) -> str:
            return self._module.status_message(words.tolist(), features=features, documents=documents)

        return self._queue(call, message, edges=edges)

    def _queue(self, call: Any, message: Callable[[torch.Tensor], str], **results: Any) -> DeviceStatus:
        """Queues a call whose arguments have been checked."""
        with self._current():
            # Freed on return, but the allocator reuses it only after the work queued on this stream.
            scratch = torch.empty(call.scratch_bytes, dtype=torch.uint8, device=self._device)
            status = self._new_status()
            call.run(scratch=scratch.data_ptr(), status=status.data_ptr(), stream=_stream(self._device), **results)
            return DeviceStatus(status, message)

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Makes the device the current one of torch and of the module (csrc/cuda/runtime/current_device.h)."""
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                self._module.use_device(self._device.index)
                yield
        else:
            yield

    def _new_status(self) -> torch.Tensor:
        return torch.full((self._module.num_status_words,), -1, dtype=torch.int64, device=self._device)

    def _graph_message(self, graph: requests.GraphLayout) -> Callable[[torch.Tensor], str]:
        return lambda words: self._module.status_message(words.tolist(), num_instances=graph.num_instances)


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
