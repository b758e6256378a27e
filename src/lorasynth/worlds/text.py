"""A CLIP tokenizer and text encoder for a world's few words, built from nothing and offline."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 40


def _byte_letters() -> list[str]:
    """The 256 printable stand-ins for bytes of byte-level BPE (Radford et al., 2019, as CLIP uses them)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(rest))]


def _apply(symbols: list[str], merges: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of one word: the earliest-learned pair first, until none is left."""
    while len(symbols) > 1:
        ranked = [(merges[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in merges]
        if not ranked:
            break
        _, i = min(ranked)
        symbols = [*symbols[:i], symbols[i] + symbols[i + 1], *symbols[i + 2 :]]
    return symbols


def merges_for(words: Sequence[str]) -> list[tuple[str, str]]:
    """Merges that make each word one token. A later word's merges never split an earlier word, as they rank below its own."""
    merges: dict[tuple[str, str], int] = {}
    for word in words:
        symbols = _apply([*word[:-1], word[-1] + "</w>"], merges)
        while len(symbols) > 1:
            merges[symbols[0], symbols[1]] = len(merges)
            symbols = _apply(symbols, merges)
    return list(merges)


def build_tokenizer(words: Sequence[str]) -> "CLIPTokenizer":
    """A CLIP tokenizer that knows ``words`` as one token each and spells out any other word in letters."""
    from transformers import CLIPTokenizer

    letters = _byte_letters()
    merges = merges_for(words)
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(
        vocab=vocab, merges=merges, model_max_length=MAX_TOKENS,
        bos_token=START, eos_token=END, unk_token=END, pad_token=END,
    )  # fmt: skip


def build_text_encoder(tokenizer: "CLIPTokenizer", width: int = 96, depth: int = 2) -> "CLIPTextModel":
    """A small CLIP text encoder over ``tokenizer`` with random weights, which are good enough to keep.

    Word embeddings have unit size (CLIP's own start is 0.02), so that each token's state is its word, nearly orthogonal to all
    other words, with a little of what came before. A world says so few words that nothing more has to be learned.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, projection_dim=width,
        num_hidden_layers=depth, num_attention_heads=4, max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = CLIPTextModel(config)
    torch.nn.init.normal_(model.get_input_embeddings().weight)
    return model
