"""Caption to caption retrieval: two captions of a photo are a positive pair, other pairs of the batch are negatives.

Data: a text file, one photo a line, its five captions separated by tabs (Multi30k). A photo gives two instances,
captions 1 and 2, and captions 3 and 4: so a few false negatives are known, by photo. The encoder is a mean of word
embeddings and a perceptron, from scratch. Every caption of a photo kept aside queries all captions of all photos kept
aside; a hit is another caption of its photo.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from batchsampler_ext import knn

from .arms import Parameters
from .training import train

METRICS = ("recall_at_1", "mrr")
RANGES = {"lr": (1.5e-3, 1.5e-2), "temperature": (0.03, 0.15)}
CANDIDATES = (250, 1000, 4000)
LEFT_OUT: tuple[str, ...] = ()
PHOTOS = {"tune": (11_000, 2_500), "confirm": (11_000, 4_500)}  # for training, kept aside
BATCH_SIZE, NUM_EPOCHS, DIM, WIDTH, MAX_WORDS = 256, 10, 128, 256, 24


class CaptionEncoder(nn.Module):
    def __init__(self, num_words: int) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(num_words + 1, WIDTH, mode="mean", padding_idx=0)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, DIM))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.perceptron(self.embedding(words)), dim=1)


def run(data: Path, split: str, arm: str, parameters: Parameters, seed: int, num_epochs: int = NUM_EPOCHS) -> dict:
    """split: "tune" or "confirm", other photos. num_epochs = 0: the untrained encoder."""
    photos = [line.split("\t") for line in (data / "text" / "captions.tsv").read_text("utf-8").splitlines()]
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(0)).tolist()
    first = 0 if split == "tune" else sum(PHOTOS["tune"])
    num_train, num_test = PHOTOS[split]
    kept_in = [photos[i] for i in order[first : first + num_train]]
    kept_aside = [photos[i] for i in order[first + num_train : first + num_train + num_test]]
    counts = Counter(word for photo in kept_in for caption in photo for word in words_of(caption))
    vocabulary = {word: i for i, (word, count) in enumerate(counts.most_common(), start=1) if count > 1}

    captions = encode(kept_in, vocabulary)
    anchors = torch.cat([5 * torch.arange(num_train), 5 * torch.arange(num_train) + 2])
    torch.manual_seed(seed)
    model = CaptionEncoder(len(vocabulary))
    seen = {}
    if num_epochs:
        seen = train(
            model,
            lambda indices: (model(captions[anchors[indices]]), model(captions[anchors[indices] + 1])),
            torch.arange(num_train).repeat(2),
            arm=arm,
            parameters=parameters,
            dim=DIM,
            batch_size=BATCH_SIZE,
            num_epochs=num_epochs,
            seed=seed,
        )
    return retrieval_metrics(model, encode(kept_aside, vocabulary)) | seen


def words_of(caption: str) -> list[str]:
    return re.findall(r"\w+", caption.lower())


def encode(photos: list[list[str]], vocabulary: dict[str, int]) -> torch.Tensor:
    """int64 [5 * photos, MAX_WORDS], 0 past the end; unknown words are left out."""
    captions = [caption for photo in photos for caption in photo]
    result = torch.zeros((len(captions), MAX_WORDS), dtype=torch.int64)
    for row, caption in zip(result, captions, strict=True):
        ids = [vocabulary[word] for word in words_of(caption) if word in vocabulary][:MAX_WORDS]
        row[: len(ids)] = torch.tensor(ids)
    return result


@torch.no_grad()
def retrieval_metrics(model: CaptionEncoder, captions: torch.Tensor) -> dict[str, float]:
    """Recall at 1 and mean reciprocal rank (0 beyond rank 100) of the first other caption of the same photo."""
    embeddings = model(captions)
    found = knn(embeddings, embeddings, 101).ids.long()
    queries = torch.arange(len(embeddings))[:, None]
    is_other = found != queries
    is_hit = is_other & (found // 5 == queries // 5)
    rank = is_other.cumsum(1).where(is_hit, torch.tensor(2**31)).amin(1)
    reciprocal = (1 / rank.double()).where(rank < 2**31, torch.tensor(0.0).double())
    return {"recall_at_1": float((rank == 1).double().mean()), "mrr": float(reciprocal.mean())}
