"""Numbers by which ranks compare their data without sending it."""

from __future__ import annotations

import torch


def hash_rows(table: torch.Tensor) -> torch.Tensor:
    """Returns int64 [N], a hash of the bits of each row of a [N, D] table of a 16 or 32-bit type."""
    words = table.view(torch.int16 if table.element_size() == 2 else torch.int32)
    # Odd multipliers, so that a change of one word always changes the sum (modulo 2**64).
    columns = torch.arange(words.shape[1], dtype=torch.int64, device=table.device)
    factors = (columns * 0x5851F42D4C957F2D + 0x14057B7EF767814F) * 2 + 1
    result = torch.empty(len(words), dtype=torch.int64, device=table.device)
    rows_at_once = max(1, (1 << 22) // words.shape[1])
    for first in range(0, len(words), rows_at_once):
        part = words[first : first + rows_at_once].to(torch.int64)
        result[first : first + len(part)] = (part * factors).sum(1)
    return result


def checksum(values: torch.Tensor) -> int:
    """Returns one number for int64 [N] values, such as hashes of rows. It depends on their order."""
    places = torch.arange(len(values), device=values.device)
    mixed = values ^ (values >> 29)
    return int((mixed * ((places * 0x2545F4914F6CDD1D) * 2 + 1)).sum())
