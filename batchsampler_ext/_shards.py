"""A graph that the ranks of a process group build together: each builds a share of its rows, then all get the others'.

All ranks take part in two small exchanges before any rows are sent: they compare their arguments, and they tell
whether their shares are complete. So a rank that fails makes the others fail at once instead of letting them wait.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist

from ._engine.arrays import Matrix
from ._engine.hashes import checksum, hash_rows
from ._engine.process_group import device_of, gather_integers, require_member, send_integers

BUFFER_BYTES = 8 << 20  # of rows on their way; there are three buffers
NUM_COMPARED_ROWS = 1024
NAME = "process_group"


class Arguments(NamedTuple):
    """The arguments that decide a graph, as integers of 64 bits. Equal on all ranks."""

    num_instances: int
    dim: int
    num_rows: int
    num_candidates: int
    num_neighbors: int
    candidate_group_size: int
    range_min: int
    seed: int
    sort: int
    return_scores: int
    metric: int
    # What follows is compared, but not shown: the bits of a number, checksums, or -1 for None.
    compute_dtype: int
    max_score: int
    rows: int
    labels: int
    features: int
    documents: int


_NUM_SHOWN = Arguments._fields.index("metric")


def digest_of_rows(matrix: Matrix, ids: torch.Tensor | None) -> int:
    """Returns a checksum of the dtype and of at most 1,024 rows, evenly spread over ``ids`` (None: all rows)."""
    num_rows = matrix.num_rows if ids is None else len(ids)
    count = min(num_rows, NUM_COMPARED_ROWS)
    places = torch.arange(count, device=matrix.device) * num_rows // count
    hashes = hash_rows(matrix.row_bits(places if ids is None else ids[places]))
    return checksum(torch.cat([hashes, hashes.new_tensor([matrix.dtype_code])]))


def digest_of_ids(ids: torch.Tensor | None) -> int:
    return -1 if ids is None else checksum(ids)


def shares(num_groups: int, num_ranks: int) -> list[range]:
    """Returns the groups of rows that each rank builds. A share is empty if there are fewer groups than ranks."""
    bounds = [rank * num_groups // num_ranks for rank in range(num_ranks + 1)]
    return [range(first, end) for first, end in itertools.pairwise(bounds)]


class Shards:
    """The exchanges of one call. All ranks use the same methods in the same order.

    Raises:
        ValueError: there is no process group, or this process does not belong to it.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        require_member(group, NAME)
        self.rank, self.num_ranks = dist.get_rank(group), dist.get_world_size(group)
        self._group = group

    @contextlib.contextmanager
    def announced_failure(self) -> Iterator[None]:
        """If the block fails, makes the other ranks fail in the exchange that follows. Does not wait for them."""
        try:
            yield
        except BaseException:  # also Ctrl-C
            with contextlib.suppress(RuntimeError):
                send_integers([1] + [0] * len(Arguments._fields), self._group)
            raise

    def require_equal(self, arguments: Arguments) -> None:
        """Raises ``RuntimeError`` on all ranks if a rank has failed or has other arguments."""
        given = [Arguments(*values) for values in self._exchange(arguments)]
        others = [rank for rank, other in enumerate(given) if other != given[0]]
        if not others:
            return
        differences = []
        have_same_rows = (
            len({(arguments.num_instances, arguments.num_rows, arguments.rows) for arguments in given}) == 1
        )
        for place, name in enumerate(Arguments._fields):
            if name in ("features", "documents") and not have_same_rows:
                continue  # checksums of other rows
            values = dict.fromkeys(arguments[place] % 2**64 for arguments in given)
            if len(values) > 1:
                shown = f" ({' and '.join(map(str, values))})" if place < _NUM_SHOWN else ""
                differences.append(name + shown)
        raise RuntimeError(
            f"{NAME}: expected equal arguments on all ranks, but rank 0 and {_ranks(others)} of the group differ in "
            f"{', '.join(differences)}; no rank builds anything"
        )

    def require_built(self) -> None:
        """Raises ``RuntimeError`` on all ranks if a rank has failed to build its share."""
        self._exchange(Arguments(*[0] * len(Arguments._fields)))

    def _exchange(self, own: Arguments) -> list[list[int]]:
        gathered = gather_integers([0, *own._replace(seed=_signed(own.seed))], self._group)
        failed = [rank for rank, (has_failed, *_) in enumerate(gathered) if has_failed]
        if failed:
            raise RuntimeError(f"{NAME}: {_ranks(failed)} of the group failed, so no rank has a graph")
        return [values for _, *values in gathered]

    def gather(self, table: torch.Tensor, positions: list[range], order: torch.Tensor | None) -> None:
        """Completes a [R, K] table of which each rank has the rows of its positions.

        Rows go around a ring: a rank sends what it received last to the next rank. While they are on their way, the
        rows received before go to their places.

        Args:
            positions: positions of each rank's rows.
            order: int32 [R], row of the table at each position. None: the position itself.
        """
        at_once = max(1, BUFFER_BYTES // (table.element_size() * table.shape[1]))
        ring = _Ring(self._group, table, order, min(at_once, max(map(len, positions))))
        for first in range(0, max(map(len, positions)), at_once):
            for step in range(self.num_ranks):
                source = positions[(self.rank - step) % self.num_ranks][first : first + at_once]
                if step == 0:
                    ring.take(source)
                else:
                    ring.turn(source)
        ring.place()


class _Ring:
    """Passes rows of a table on to the next rank, and receives as many of the previous one, chunk by chunk."""

    def __init__(self, group: dist.ProcessGroup, table: torch.Tensor, order: torch.Tensor | None, size: int) -> None:
        rank, num_ranks = dist.get_rank(group), dist.get_world_size(group)
        self._group, self._table, self._order = group, table, order
        self._next, self._previous = (dist.get_global_rank(group, (rank + by) % num_ranks) for by in (1, -1))
        self._buffers = [table.new_empty((size, table.shape[1]), device=device_of(group)) for _ in range(2)]
        self._own = self._table.new_empty((size if order is not None else 0, table.shape[1]))
        self._outgoing = self._buffers[0][:0]
        self._arrived, self._arrived_positions = self._outgoing, range(0)

    def take(self, positions: range) -> None:
        """The next turn sends these rows of the table."""
        if self._order is None:
            rows = self._table[positions.start : positions.stop]
        else:
            rows = self._own[: len(positions)]
            torch.index_select(self._table, 0, self._order[positions.start : positions.stop], out=rows)
        self._outgoing = rows.to(device_of(self._group))

    def turn(self, positions: range) -> None:
        """Receives the rows of these positions, and places the rows that arrived before. The next turn sends them."""
        incoming = self._buffers[0][: len(positions)]
        operations = []
        if len(self._outgoing):
            operations.append(dist.P2POp(dist.isend, self._outgoing, self._next, self._group))
        if len(incoming):
            operations.append(dist.P2POp(dist.irecv, incoming, self._previous, self._group))
        works = dist.batch_isend_irecv(operations) if operations else []
        self.place()
        for work in works:
            work.wait()
        self._buffers.reverse()
        self._outgoing = self._arrived = incoming
        self._arrived_positions = positions

    def place(self) -> None:
        first, end = self._arrived_positions.start, self._arrived_positions.stop
        rows = self._arrived.to(self._table.device)
        if self._order is None:
            self._table[first:end] = rows
        else:
            self._table.index_copy_(0, self._order[first:end].long(), rows)


def _signed(word: int) -> int:
    """Returns the int64 with the bits of a uint64."""
    return word - 2**64 if word >= 2**63 else word


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
