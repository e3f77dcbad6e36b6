"""Texts, data sets and models of sentence-transformers that need no network and train in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import tokenizers
import torch
import transformers
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer

NUM_WORDS, WIDTH = 60, 8


def pairs(size: int = 40, first: int = 0, **columns: Any) -> datasets.Dataset:
    """Row i asks for its own number."""
    numbers = range(first, first + size)
    texts = {
        "anchor": [f"w{i % NUM_WORDS} w{i * 7 % NUM_WORDS} w{i // NUM_WORDS}" for i in numbers],
        "positive": [f"w{i % NUM_WORDS} w{i * 11 % NUM_WORDS}" for i in numbers],
    }
    return datasets.Dataset.from_dict({**texts, **columns})


def tokenizer() -> tokenizers.Tokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(NUM_WORDS))]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return made


def static_model(width: int = WIDTH) -> SentenceTransformer:
    torch.manual_seed(0)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer(), embedding_dim=width)], device="cpu")


def bert_model(folder: Path) -> SentenceTransformer:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=NUM_WORDS + 5,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    transformers.BertModel(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip
    body = Transformer(str(folder))
    return SentenceTransformer(modules=[body, Pooling(WIDTH)], device="cpu")


def arguments(folder: Path, **options: Any) -> SentenceTransformerTrainingArguments:
    defaults = {
        "per_device_train_batch_size": 8, "num_train_epochs": 2, "save_strategy": "no", "learning_rate": 1e-2,
        "lr_scheduler_type": "constant", "report_to": [], "logging_strategy": "no",
    }  # fmt: skip
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder), use_cpu=True, disable_tqdm=True, **{**defaults, **options}
    )


class RecordingTrainer(SentenceTransformerTrainer):
    """Notes the inputs of each training step. No model card, which takes longer than training."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.steps: list[dict[str, Any]] = []
        super().__init__(*args, **kwargs)
        self.model._create_model_card = lambda *args, **kwargs: None

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        pass

    def compute_loss(self, model, inputs, *args: Any, **kwargs: Any):
        if torch.is_grad_enabled():
            self.steps.append(dict(inputs))
        return super().compute_loss(model, inputs, *args, **kwargs)
