"""Texts for the examples: a tokenizer and two encoders, pretrained or from scratch."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

import parsing
import torch
from torch import nn


def add_arguments(parser: argparse.ArgumentParser, *, encoder: str, width: int) -> None:
    group = parser.add_argument_group("encoder")
    group.add_argument("--encoder", choices=("bag", "bert"), default=encoder,
                       help="bag: mean of token embeddings and a perceptron; bert: a transformer")  # fmt: skip
    group.add_argument(
        "--model", metavar="NAME", help="a pretrained model, e.g. bert-base-uncased; default: from scratch"
    )
    group.add_argument("--width", type=parsing.positive_int, default=width)
    group.add_argument("--layers", type=parsing.positive_int, default=4, help="bert: number of layers")
    group.add_argument(
        "--vocabulary",
        type=parsing.positive_int,
        default=8192,
        help="number of tokens, learned from the training texts; from scratch only",
    )
    group.add_argument(
        "--max-tokens", type=parsing.positive_int, default=32, help="tokens of a text; the rest is cut off"
    )
    group.add_argument("--pooler", choices=("cls", "mean"), default="mean", help="bert: the embedding of a text")


class Tokens:
    """Returns int64 [B, max_tokens] tokens of texts, 0 past the end. The vocabulary is pretrained or learned."""

    def __init__(self, args: argparse.Namespace, texts: Iterable[str]) -> None:
        self._max_tokens = args.max_tokens
        if args.model:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(args.model)
            if tokenizer.pad_token_id != 0:
                raise SystemExit(f"--model: expected a model of BERT's kind, which pads by token 0, got {args.model}")
            self._encode = lambda batch: tokenizer(batch, truncation=True, max_length=args.max_tokens)["input_ids"]
            self.size = len(tokenizer)
        else:
            # Byte pairs, because the library's WordPiece learns another vocabulary at every call. Runs could then not
            # be repeated or resumed.
            from tokenizers import ByteLevelBPETokenizer

            tokenizer = ByteLevelBPETokenizer(add_prefix_space=True, lowercase=True)
            special = ["[PAD]", "[CLS]"]
            tokenizer.train_from_iterator(texts, args.vocabulary, show_progress=False, special_tokens=special)
            start = [] if args.encoder == "bag" else [special.index("[CLS]")]
            tokenizer.enable_truncation(args.max_tokens - len(start))
            self._encode = lambda batch: [start + encoding.ids for encoding in tokenizer.encode_batch(batch)]
            self.size = tokenizer.get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        result = torch.zeros((len(texts), self._max_tokens), dtype=torch.int64)
        for row, ids in zip(result, self._encode(list(texts)), strict=True):
            row[: len(ids)] = torch.tensor(ids)
        return result


class BagEncoder(nn.Module):
    """Mean of token embeddings, followed by a perceptron."""

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(num_tokens, width, mode="mean", padding_idx=0)
        self.perceptron = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.width = width

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.perceptron(self.embedding(tokens))


class BertEncoder(nn.Module):
    """A transformer. The embedding is the state of the first token, or the mean over tokens."""

    def __init__(self, args: argparse.Namespace, num_tokens: int) -> None:
        from transformers import AutoModel, BertConfig, BertModel

        super().__init__()
        if args.model:
            self.bert = AutoModel.from_pretrained(args.model, add_pooling_layer=False)  # DDP refuses unused weights
        else:
            config = BertConfig(
                vocab_size=num_tokens,
                hidden_size=args.width,
                num_hidden_layers=args.layers,
                num_attention_heads=max(1, args.width // 64),
                intermediate_size=4 * args.width,
                max_position_embeddings=args.max_tokens,
            )
            self.bert = BertModel(config, add_pooling_layer=False)
        self.width = self.bert.config.hidden_size
        self._pooler = args.pooler

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens[:, : int((tokens != 0).sum(1).max())]
        mask = tokens != 0
        states = self.bert(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        if self._pooler == "cls":
            return states[:, 0]
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def new_encoder(args: argparse.Namespace, num_tokens: int) -> BagEncoder | BertEncoder:
    is_bag = args.encoder == "bag" and not args.model
    return BagEncoder(num_tokens, args.width) if is_bag else BertEncoder(args, num_tokens)


@torch.no_grad()
def embed(encode: nn.Module, tokens: torch.Tensor, device: torch.device, batch_size: int = 512) -> torch.Tensor:
    """Returns embeddings of all rows, float32 on the CPU."""
    return torch.cat([encode(part.to(device)).float().cpu() for part in tokens.split(batch_size)])
