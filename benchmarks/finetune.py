"""Fine-tunes a pretrained encoder with the code of docs/frameworks/sentence_transformers.md, word for word.

python -m benchmarks.finetune PAIRS.tsv ENCODER [--kinds uniform online plan] [--out finetune.json]

PAIRS has several texts per line, and each line is a pair: its first two texts. ENCODER is a folder or name that
sentence-transformers loads. Needs ``pip install '.[sentence_transformers]'``.

It trains on the first lines, once with uniform batches, once with a bank and once with a plan, each from the encoder as
it was. Recall is that of the last lines: is the second text among the k nearest to the first one?
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from . import machine

GUIDE = Path(__file__).parents[1] / "docs" / "frameworks" / "sentence_transformers.md"
KINDS = ("uniform", "online", "plan")
PLAIN = """\
args = SentenceTransformerTrainingArguments("out", per_device_train_batch_size=64)
"""
LOSS = "loss = MultipleNegativesRankingLoss(model)\n"
TRAIN = "SentenceTransformerTrainer(model, args, train_dataset=dataset, loss=loss).train()\n"


def code_of(kind: str) -> str:
    """Returns what trains a ``model`` on a ``dataset``. The guide's first block is online, its second one a plan."""
    online, plan = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    imports = online.split("bank = ")[0]
    return {"online": online, "plan": imports + LOSS + plan + TRAIN, "uniform": imports + LOSS + PLAIN + TRAIN}[kind]


def recall(model: Any, pairs: list[list[str]]) -> dict[str, float]:
    """Returns recall in percent."""
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    queries, documents = (model.encode(part, convert_to_tensor=True, normalize_embeddings=True) for part in sides)
    scores = queries @ documents.T
    rank = (scores > scores.diagonal()[:, None]).sum(1)
    return {f"recall@{k}": round(100 * (rank < k).float().mean().item(), 2) for k in (1, 5, 10)}


def run(kind: str, encoder: str, train: list[list[str]], test: list[list[str]], seed: int) -> dict[str, Any]:
    """Trains once. Returns recall before and after, and the minutes of training with all that it needs."""
    import datasets
    from sentence_transformers import SentenceTransformer
    from transformers import set_seed

    model = SentenceTransformer(encoder)
    set_seed(seed)
    before = recall(model, test)
    dataset = datasets.Dataset.from_dict(
        {"anchor": [pair[0] for pair in train], "positive": [pair[1] for pair in train]}
    )
    start, here = time.perf_counter(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # for the trainer's output
        try:
            exec(code_of(kind), {"dataset": dataset, "model": model})
        finally:
            os.chdir(here)
    minutes = (time.perf_counter() - start) / 60
    return {"kind": kind, "seed": seed, "before": before, "after": recall(model, test), "minutes": round(minutes, 2)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("encoder")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--num-train", type=int, default=3200)
    parser.add_argument("--num-test", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("finetune.json"))
    args = parser.parse_args(argv)
    pairs = [line.split("\t")[:2] for line in args.pairs.read_text(encoding="utf-8").splitlines()]
    if len(pairs) < args.num_train + args.num_test:
        parser.error(f"expected at least {args.num_train + args.num_test} pairs, got {len(pairs)}")
    encoder = str(Path(args.encoder).resolve()) if Path(args.encoder).exists() else args.encoder
    results = []
    for kind in args.kinds:
        result = run(kind, encoder, pairs[: args.num_train], pairs[-args.num_test :], args.seed)
        print(json.dumps(result), flush=True)
        results.append(result)
        settings = {"num_train": args.num_train, "num_test": args.num_test}
        found = {"machine": machine.describe(torch.get_num_threads()), **settings, "runs": results}
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
