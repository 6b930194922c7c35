"""Token sequences of any length as padded arrays of a few fixed shapes, so that few programs are compiled."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

Tokens = Sequence[int] | Int[np.ndarray, " _"]
"""The token ids of a text."""


def padded(sequences: Sequence[Tokens], rows: int, width: int, *, left: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `[rows, width]`, padded with 0 on the right (or left), and lengths `[rows]`: 0 without a sequence."""
    tokens, lengths = np.zeros((rows, width), np.int32), np.zeros(rows, np.int32)
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
