"""Token sequences: padded to arrays of a few fixed shapes, so that few programs are compiled, and joined to pairs."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from transformer_jax.data.tokenizers import Tokenizer

Tokens = Sequence[int] | Int[np.ndarray, " _"]
"""The token ids of a text."""


def padded(sequences: Sequence[Tokens], rows: int, width: int, *, left: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `[rows, width]`, padded with 0 on the right (or left), and lengths `[rows]`: 0 without a sequence.

    Items of another shape and type, such as frames of sound, keep them.
    """
    like = np.asarray(sequences[0]) if len(sequences) and np.ndim(sequences[0]) > 1 else np.zeros(0, np.int32)
    tokens, lengths = np.zeros((rows, width, *like.shape[1:]), like.dtype), np.zeros(rows, np.int32)
    for row, ids in enumerate(sequences):
        start = width - len(ids) if left else 0
        tokens[row, start : start + len(ids)] = ids
        lengths[row] = len(ids)
    return tokens, lengths


def array_width(length: int) -> int:
    """The array length for sequences of this length: one of a few."""
    step = 8
    while length > 8 * step:
        step *= 2
    return -(-length // step) * step


def join_parts(tokenizer: Tokenizer, texts: Sequence[Sequence[str]], max_length: int) -> list[tuple[list[int], int]]:
    """A text, or two that belong together, as one sequence (Devlin et al. 2019, section 3).

    A start token, the parts with an end token (RoBERTa: two) between them, and an end token; and the place of the
    second part's first token. What is longer than `max_length` loses tokens at the end of its longest part.
    """
    parts = iter(tokenizer.encode_batch([part for text in texts for part in text]))
    between, sequences = [tokenizer.eos_id] * tokenizer.between, []
    for text in texts:
        ids = [next(parts) for _ in text]
        sizes, special = [*map(len, ids)], 2 + len(between) * (len(ids) - 1)
        for _ in range(min(sum(sizes), sum(sizes) + special - max_length)):
            # Of two that are equally long, the one that was shorter, as in the package tokenizers.
            max(zip(ids, sizes, strict=True), key=lambda part: (len(part[0]), -part[1]))[0].pop()
        rest = [token for part in ids[1:] for token in [*between, *part]]
        sequences.append(([tokenizer.bos_id, *ids[0], *rest, tokenizer.eos_id], 1 + len(ids[0]) + len(between)))
    return sequences


def token_types(tokens: Int[Array, "batch length"], first: Int[Array, " batch"]) -> Int[Array, "batch length"]:
    """1 for the tokens of a text's second part, `first` being the length of the first part; 0 for others."""
    return (jnp.arange(tokens.shape[1])[None] >= first[:, None]).astype(jnp.int32)
