"""Other tokens of the same texts, drawn anew in every epoch: BPE dropout (Provilkov et al. 2020) and unigram sampling
(Kudo 2018), as SentencePiece offers them."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from transformer_jax.data.pipeline import Batch
from transformer_jax.data.tokenizers import Tokenizer

RowLengths = Int32[np.ndarray, "rows columns"]
DRAWS = 4
"""Draws for a text, of which the first that is short enough is taken."""


def resample(
    batch: Batch, column: str, tokenizer: Tokenizer, *, around: tuple[int, int], alpha: float, seed: int, epoch: int
) -> Batch:
    """The batch with other tokens in a column, a function of seed, epoch and example.

    `around` counts the tokens before and after those of a text, which stay. A text stays as it is where no draw fits
    into the array, or its tokens do not lead back to themselves.
    """
    tokens, lengths = batch[column].copy(), batch[f"{column}_length"].copy()
    before, after = around
    for row, example in enumerate(batch["example"].tolist()):
        if example >= 0:
            end = int(lengths[row]) - after
            ids, key = tokens[row, before:end].tolist(), [seed, epoch, example, column]
            drawn = draw(tokenizer, ids, alpha, key, longest=tokens.shape[1] - before - after)
            whole = [*tokens[row, :before], *drawn, *tokens[row, end : end + after]]
            tokens[row], lengths[row] = 0, len(whole)
            tokens[row, : len(whole)] = whole
    return batch | {column: tokens, f"{column}_length": lengths}


def draw(tokenizer: Tokenizer, ids: list[int], alpha: float, key: Sequence[int | str], *, longest: int) -> list[int]:
    """Tokens of the same text, at most `longest`, that depend on `key` alone; the same ids if there are none."""
    text = tokenizer.decode(ids)
    if tokenizer.encode(text) == ids:
        for attempt in range(DRAWS):
            hashed = hashlib.blake2b(json.dumps([*key, attempt]).encode(), digest_size=4).digest()
            drawn = tokenizer.sample(text, alpha, int.from_bytes(hashed, "little"))
            if len(drawn) <= longest:
                return drawn
    return ids


def roomy(lengths: RowLengths, room: float, max_length: int) -> RowLengths:
    """Lengths for a plan of batches whose arrays have room for longer tokens of their texts."""
    longer = np.minimum(np.ceil(lengths * room), max_length).astype(np.int32)
    return np.maximum(longer, lengths)
