"""Token sequences of any length as padded arrays of a few fixed shapes, so that few programs are compiled."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

Tokens = Sequence[int] | Int[np.ndarray, " _"]
"""The token ids of a text."""


def group_by_length(
    sizes: Sequence[int], tokens_per_batch: int, *, extra: int = 0, multiple: int = 1
) -> Iterator[tuple[list[int], int, int]]:
    """Indices of sequences of similar sizes with the width and the rows of their array, shortest first.

    There can be more rows than sequences; their number is a multiple of `multiple`. Width times rows, with `extra`
    tokens more in each row, is at most `tokens_per_batch`, unless `multiple` rows are more already.
    """
    widths: dict[int, list[int]] = {}
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        widths.setdefault(array_width(sizes[index]), []).append(index)
    for width, members in widths.items():
        rows = min(max(tokens_per_batch // (width + extra), 1), array_width(len(members)))
        rows += -rows % multiple
        for start in range(0, len(members), rows):
            yield members[start : start + rows], width, rows


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
