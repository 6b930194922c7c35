"""Texts of any length as arrays of a few fixed shapes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from transformer_jax.parallel.axes import devices_of

TOKENS_PER_BATCH = 8192
"""Tokens that a predictor works on at once unless its task says otherwise."""


def listed(lines: Sequence[str]) -> list[str]:
    """The lines; TypeError for a single string, which would be taken letter by letter, and for what is no text."""
    if isinstance(lines, str):
        raise TypeError("give a list of lines, as in [line], not one string")
    found = list(lines)
    wrong = next((line for line in found if not isinstance(line, str)), None)
    if wrong is not None:
        raise TypeError(f"every line is a text, not {type(wrong).__name__}: {str(wrong)[:60]}")
    return found


def grouped(sizes: dict[int, int], tokens_per_batch: int, extra: int = 0) -> Iterator[tuple[list[int], int, int]]:
    """Line numbers of similar sizes with the width and the rows of their array, shortest first.

    Arrays have one of a few shapes, so that few are compiled: there can be more rows than lines. Width times rows, with
    `extra` tokens more in each row, is at most `tokens_per_batch`, unless one row for each device is more already.
    """
    widths: dict[int, list[int]] = {}
    for line in sorted(sizes, key=lambda line: sizes[line]):
        widths.setdefault(array_width(sizes[line]), []).append(line)
    for width, members in widths.items():
        rows = min(max(tokens_per_batch // (width + extra), 1), array_width(len(members)))
        rows += -rows % devices_of("batch")
        for start in range(0, len(members), rows):
            yield members[start : start + rows], width, rows


def padded(
    sequences: Sequence[Sequence[int]], rows: int, width: int, *, left: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `[rows, width]`, padded with 0 on the right (or left), and lengths `[rows]`: 0 without a sequence."""
    tokens, lengths = np.zeros((rows, width), np.int32), np.zeros(rows, np.int32)
    for row, ids in enumerate(sequences):
        start = width - len(ids) if left else 0
        tokens[row, start : start + len(ids)] = ids
        lengths[row] = len(ids)
    return tokens, lengths


def for_each(
    call: Callable[..., Any],
    sequences: Sequence[Sequence[int]],
    *columns: Sequence[int],
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> list[Any]:
    """What `call(tokens, lengths, *columns)` gives for every sequence: its row of the result.

    Tokens `[rows, width]` are padded on the right; each of the `columns` has a number for every sequence.
    """
    found: list[Any] = [None] * len(sequences)
    for lines, width, count in grouped(dict(enumerate(map(len, sequences))), tokens_per_batch):
        tokens, lengths = padded([sequences[i] for i in lines], count, width)
        empty = [0] * (count - len(lines))
        numbers = [np.array([column[i] for i in lines] + empty, np.int32) for column in columns]
        for i, row in zip(lines, np.asarray(call(tokens, lengths, *numbers)), strict=False):
            found[i] = row
    return found


def array_width(length: int) -> int:
    """The array length for sequences of this length: one of a few."""
    step = 8
    while length > 8 * step:
        step *= 2
    return -(-length // step) * step
