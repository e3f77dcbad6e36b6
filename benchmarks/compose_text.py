"""Hard batches for real text, from files to a plan to one epoch of two trainers, with the time and memory of each step.

python -m benchmarks.compose_text CAPTIONS.tsv ENCODER [--folder DIR] [--out compose_text.json]

CAPTIONS has several texts per line, and each line is a pair: its first two texts. ENCODER is a folder or name that
sentence-transformers loads, the frozen teacher. Needs ``pip install sentence-transformers datasets accelerate``.

1. encode: the teacher embeds both texts of all pairs (queries.npy, documents.npy; they are kept for the next run).
2. compose: the command line composes a plan with the preset "b3". No text is twice in a batch.
3. check: each epoch has every instance once, batches are unions of whole communities up to the instances that moved,
   no id is twice in a batch, and masks equal a brute-force computation.
4. plain: a plain loop of torch trains a bag of words on the plan for an epoch.
5. sentence_transformers: its trainer trains a static embedding on the plan for an epoch.

Students are small, so that the steps of a trainer take seconds. They show that the plan drives both, not what it gains.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import batchsampler_ext as bse
from batchsampler_ext._plan.communities import communities_of

from . import machine

BATCH_SIZE, COMMUNITY_SIZE, NUM_EPOCHS, SEED, RELATIVE_MARGIN = 256, 32, 2, 1, 0.05
STEPS = ("encode", "compose", "check", "plain", "sentence_transformers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path)
    parser.add_argument("encoder")
    parser.add_argument("--folder", type=Path, default=Path("build/compose_text"))
    parser.add_argument("--limit", type=int, help="pairs to use; default: all")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/compose_text.json"))
    parser.add_argument("--step", choices=STEPS, help="run one step in this process, as the program itself does")
    options = parser.parse_args()
    if options.step:
        result = globals()[options.step](options)
        print(json.dumps({**result, "peak_mib": peak_mib(resource.RUSAGE_SELF)}))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"machine": machine.describe(None), "batch_size": BATCH_SIZE}
    for step in STEPS:  # each in a process of its own, so that peaks are its own
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.compose_text", *sys.argv[1:], "--step", step],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        content[step] = {"seconds": time.perf_counter() - start, **json.loads(done.stdout.splitlines()[-1])}
        print(f"{step}: {content[step]}", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=2) + "\n")


def peak_mib(who: int) -> int:
    return resource.getrusage(who).ru_maxrss // 1024


def read_pairs(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    lines = [line.split("\t") for line in options.captions.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if len(line) >= 2][: options.limit]
    return [line[0] for line in lines], [line[1] for line in lines]


# --- from files to a plan --------------------------------------------------------------------------------------------
def encode(options: argparse.Namespace) -> dict[str, Any]:
    """Also writes text_ids.npy, int64 [N, 2]: instances with an equal text in a column have equal ids there."""
    texts = read_pairs(options)
    ids = np.stack([np.unique(column, return_inverse=True)[1] for column in texts], 1)
    np.save(options.folder / "text_ids.npy", ids)
    paths = [options.folder / "queries.npy", options.folder / "documents.npy"]
    if not all(path.exists() and len(np.load(path, mmap_mode="r")) == len(ids) for path in paths):
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(options.encoder, device="cpu")
        model.max_seq_length = 32
        for path, column in zip(paths, texts, strict=True):
            np.save(path, model.encode(column, batch_size=128, normalize_embeddings=True, show_progress_bar=True))
    repeated = [int(len(column) - len(np.unique(column))) for column in ids.T]
    return {"num_pairs": len(ids), "repeated_texts": repeated}


def compose(options: argparse.Namespace) -> dict[str, Any]:
    command = f"""{sys.executable} -m batchsampler_ext compose queries.npy documents.npy --batch-size {BATCH_SIZE}
        --preset b3 --unique text_ids.npy --relative-margin {RELATIVE_MARGIN} --epochs {NUM_EPOCHS} --seed {SEED}
        --out plan.bse"""
    start = time.perf_counter()
    subprocess.run(command.split(), check=True, cwd=options.folder, stdout=sys.stderr)
    seconds = time.perf_counter() - start
    words = command.split()[1:]
    return {
        "command": " ".join(["python", *words]),
        "command_s": seconds,
        "command_peak_mib": peak_mib(resource.RUSAGE_CHILDREN),
        "plan_mib": (options.folder / "plan.bse").stat().st_size / 2**20,
    }


def check(options: argparse.Namespace) -> dict[str, Any]:
    queries, documents, ids = (np.load(options.folder / f"{name}.npy") for name in ("queries", "documents", "text_ids"))
    num_instances = len(ids)
    plan = bse.Plan.load(options.folder / "plan.bse")
    free = bse.compose(
        queries, documents, batch_size=BATCH_SIZE, preset="b3", unique=ids, max_per_batch=BATCH_SIZE,
        relative_margin=RELATIVE_MARGIN, num_epochs=NUM_EPOCHS, seed=SEED,
    )  # fmt: skip
    whole, batches = 0, 0
    for epoch in range(NUM_EPOCHS):
        order = np.concatenate([np.asarray(batch) for batch in plan.batches(epoch)])
        assert (np.sort(order) == np.arange(num_instances)).all(), "every instance once"
        for batch in plan.batches(epoch):
            for column in ids[np.asarray(batch)].T:
                assert len(np.unique(column)) == len(column), "no text twice in a batch"
        community_of = communities(free, epoch, num_instances)
        for batch in free.batches(epoch):
            if len(batch) == BATCH_SIZE:
                of_batch, counts = np.unique(community_of[np.asarray(batch)], return_counts=True)
                assert (counts[of_batch >= 0] == COMMUNITY_SIZE).all(), "unions of whole communities"
                assert of_batch[0] >= 0, "no instance of the remainder"
        for batch in plan.batches(epoch):
            of_batch, counts = np.unique(community_of[np.asarray(batch)], return_counts=True)
            whole, batches = whole + int((counts == COMMUNITY_SIZE).sum()), batches + 1
    scores = bse.knn(queries, documents, 1).scores  # the dtype of exact scores
    assert scores.dtype == torch.float32
    num_masked = 0
    for batch in plan.batches(0):
        rows = np.asarray(batch)
        expected = brute_force_mask(queries[rows], documents[rows], ids[rows])
        found = plan.negative_mask(batch).numpy()
        assert (expected == found).all(), "masks equal a brute-force computation"
        num_masked += int((~found).sum()) - len(rows)
    return {
        "num_moved": plan.info["num_moved"],
        "whole_communities_after_moves": whole / (NUM_EPOCHS * (num_instances // COMMUNITY_SIZE)),
        "masked_pairs_of_epoch_0": num_masked,
    }


def communities(plan: bse.Plan, epoch: int, num_instances: int) -> np.ndarray:
    """Returns the community of each instance, -1 for the remainder."""
    assert plan.graph is not None
    found, _ = communities_of(plan.graph, COMMUNITY_SIZE, seed=SEED, epoch=epoch, num_threads=1)
    result = np.full(num_instances, -1)
    for number, members in enumerate(found.numpy()):
        result[members] = number
    return result


def brute_force_mask(queries: np.ndarray, documents: np.ndarray, ids: np.ndarray) -> np.ndarray:
    size = len(ids)
    found = bse.knn(torch.from_numpy(queries), torch.from_numpy(documents), size)
    scores = np.empty((size, size))
    scores[np.arange(size)[:, None], found.ids.numpy()] = found.scores.numpy()
    own = np.diag(scores)[:, None]
    mask = scores < np.where(own < 0, (1 + RELATIVE_MARGIN) * own, (1 - RELATIVE_MARGIN) * own)
    for column in ids.T:
        mask &= column[:, None] != column
    np.fill_diagonal(mask, False)
    return mask


# --- trainers --------------------------------------------------------------------------------------------------------
def plain(options: argparse.Namespace) -> dict[str, Any]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.encoder)
    tokens = [tokenizer(column, truncation=True, max_length=32)["input_ids"] for column in read_pairs(options)]
    plan = bse.Plan.load(options.folder / "plan.bse")
    torch.manual_seed(0)
    model = torch.nn.EmbeddingBag(len(tokenizer), 128)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def embed(rows: list[list[int]]) -> torch.Tensor:
        offsets = torch.tensor([0, *(len(row) for row in rows[:-1])]).cumsum(0)
        return torch.nn.functional.normalize(model(torch.tensor([t for row in rows for t in row]), offsets), dim=1)

    losses = []
    for batch in bse.PlannedBatchSampler(plan, dataset=len(tokens[0])):
        logits = 20 * embed([tokens[0][i] for i in batch]) @ embed([tokens[1][i] for i in batch]).T
        logits = logits.masked_fill(~(plan.negative_mask(batch) | torch.eye(len(batch), dtype=torch.bool)), -torch.inf)
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(batch)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return described(losses)


def sentence_transformers(options: argparse.Namespace) -> dict[str, Any]:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.models import StaticEmbedding
    from transformers import AutoTokenizer, TrainerCallback

    queries, documents = read_pairs(options)
    dataset = Dataset.from_dict({"anchor": queries, "positive": documents})
    plan = bse.Plan.load(options.folder / "plan.bse")

    def batch_sampler(dataset: Any, **_: Any) -> bse.PlannedBatchSampler:
        return bse.PlannedBatchSampler(plan, dataset=dataset)

    losses: list[float] = []

    class Log(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    tokenizer = AutoTokenizer.from_pretrained(options.encoder).backend_tokenizer
    torch.manual_seed(0)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=128)], device="cpu")
    arguments = Arguments(
        output_dir=str(options.folder / "trainer"), num_train_epochs=1, per_device_train_batch_size=BATCH_SIZE,
        learning_rate=1e-2, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
        batch_sampler=batch_sampler,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=dataset, loss=MultipleNegativesRankingLoss(model), callbacks=[Log()]
    )
    trainer.train()
    assert trainer.state.global_step == len(plan.batches(0)), "one step per batch of the plan"
    return described(losses)


def described(losses: list[float]) -> dict[str, Any]:
    tenth = max(1, len(losses) // 10)
    return {
        "num_steps": len(losses),
        "first_losses": float(np.mean(losses[:tenth])),
        "last_losses": float(np.mean(losses[-tenth:])),
    }


if __name__ == "__main__":
    main()
