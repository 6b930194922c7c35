"""Random masks for masked language modelling (Devlin et al. 2019, section 3.1)."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Tokens = Int[np.ndarray, "rows length"]
Places = Int[np.ndarray, "rows places"]


class Masked(NamedTuple):
    """A batch with masked tokens."""

    tokens: Tokens
    """Tokens with masks, the input of the model."""
    chosen: Bool[np.ndarray, "rows length"]
    """Places whose original tokens the model predicts."""


def places_to_predict(tokens: Tokens, masked: Masked, most: int) -> tuple[Places, Places]:
    """The first `most` chosen places of every row and their original tokens, -1 for places beyond the chosen ones."""
    places = np.argsort(~masked.chosen, axis=1, kind="stable")[:, :most]
    labels = np.take_along_axis(np.where(masked.chosen, tokens, -1), places, axis=1)
    return places.astype(np.int32), labels.astype(np.int32)


def uniform(seed: int, epoch: int, keys: tuple[int, int], count: int) -> Float[np.ndarray, " count"]:
    """Numbers in [0, 1) that depend on seed, epoch and keys alone, not on the machine or NumPy's version."""
    bits = np.random.Philox(key=[seed, epoch], counter=[0, 0, *keys]).random_raw(count)
    return (bits >> np.uint64(11)) * 2.0**-53


def mask_tokens(
    tokens: Tokens,
    real: Bool[np.ndarray, "rows length"],
    keys: Int[np.ndarray, "rows 2"],
    *,
    seed: int,
    epoch: int,
    rate: float,
    mask_id: int,
    vocab_size: int,
    special: Collection[int],
    word_starts: Bool[np.ndarray, " vocab"] | None = None,
) -> Masked:
    """Chooses real tokens with probability `rate`: 80 % become the mask, 10 % another token, 10 % stay as they are.

    Tokens of `special` are neither chosen nor inserted. With `word_starts` (for every token, whether it begins a word)
    the tokens of a word are chosen together. The draws of a row depend on seed, epoch and its `keys` alone.
    """
    rows, length = tokens.shape
    draws = np.empty((3, rows, length))
    for row, (one, other) in enumerate(keys.tolist()):
        draws[:, row] = uniform(seed, epoch, (one + 1, other + 1), 3 * length).reshape(length, 3).T
    choice, kind, other = draws
    ordinary = real & ~np.isin(tokens, list(special))
    if word_starts is not None:
        begins = word_starts[tokens] | ~ordinary
        begins[:, 1:] |= ~ordinary[:, :-1]
        start = np.maximum.accumulate(np.where(begins, np.arange(length)[None], 0), axis=1)
        choice = np.take_along_axis(choice, start, axis=1)
    chosen = ordinary & (choice < rate)
    possible = np.setdiff1d(np.arange(vocab_size), list(special))
    random = possible[(other * len(possible)).astype(np.int64)]
    seen = np.where(kind < 0.8, mask_id, np.where(kind < 0.9, random, tokens))
    return Masked(np.where(chosen, seen, tokens).astype(np.int32), chosen)
