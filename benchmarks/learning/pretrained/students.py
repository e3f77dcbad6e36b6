"""The students, one per tier. Each embeds queries and documents of a data set to rows of unit length.

| tier | weights before training | what is trained |
|---|---|---|
| head | frozen embeddings of the teacher | a matrix [384, 384] per column, at first the identity |
| static | the teacher's table of token embeddings | that table: a text is the mean of its tokens |
| encoder | the teacher | all of it |

`embed(column, texts, indices)` returns float32 [n, D], rows of unit length, of these texts of a column, QUERIES or
DOCUMENTS. `read` says what texts are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

from . import features

QUERIES, DOCUMENTS = 0, 1


class Head(torch.nn.Module):
    """Texts are the teacher's embeddings."""

    read = staticmethod(features.embeddings)

    def __init__(self, data: Path) -> None:
        super().__init__()
        self.maps = torch.nn.ParameterList(torch.eye(features.width(data)) for _ in features.SIDES)

    def embed(self, column: int, texts: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        return normalize(texts[indices] @ self.maps[column], dim=1)

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr)


class Static(torch.nn.Module):
    """Texts are tokens. This is StaticEmbedding of sentence-transformers."""

    read = staticmethod(features.tokens)

    def __init__(self, data: Path) -> None:
        super().__init__()
        table = features.load_encoder(data)[1].get_input_embeddings().weight.detach().clone()
        self.bag = torch.nn.EmbeddingBag.from_pretrained(table, freeze=False, mode="mean")

    def embed(self, column: int, texts: features.Tokens, indices: torch.Tensor) -> torch.Tensor:
        return normalize(self.bag(*texts.bags(indices)), dim=1)

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr, fused=True)


class Encoder(torch.nn.Module):
    """Texts are tokens. Products are computed in bfloat16."""

    read = staticmethod(features.tokens)

    def __init__(self, data: Path) -> None:
        super().__init__()
        self.model = features.load_encoder(data)[1].train()

    def embed(self, column: int, texts: features.Tokens, indices: torch.Tensor) -> torch.Tensor:
        return features.mean_of_tokens(self.model, *texts.padded(indices))

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr, fused=True)


TIERS: dict[str, Callable[[Path], Any]] = {"head": Head, "static": Static, "encoder": Encoder}
