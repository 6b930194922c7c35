"""Columns: the arrays that a task encodes of every example, by name."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Column:
    """An array of every example: token ids, a label, a number, audio frames, an image.

    In a batch it is `[rows, length, *item_shape]`, padded with 0, beside the lengths `<name>_length` `[rows]`; without
    `varying` it is `[rows, *item_shape]`.
    """

    dtype: str = "int32"
    """NumPy's name of an integer or a float."""
    item_shape: tuple[int, ...] = ()
    """Shape of one item: () for a token or a label, (80,) for a frame, (224, 224, 3) for an image."""
    varying: bool = True
    """True: a sequence of any number of items. False: exactly one item in every example."""
    tokens: int = 1
    """How many tokens of `data.tokens_per_batch` the one item counts as; an item of a sequence counts as one."""
    longest: int | None = None
    """Items of the longest sequence, others are skipped and counted; None: data.max_length."""
    batched: bool = True
    """False: only predictions in an evaluation read it, from the table; batches do not have it."""
    decode: Callable[[bytes, Iterator[float] | None], np.ndarray] | None = field(default=None, repr=False)
    """From the bytes that `encode` gave to the item; the pipeline calls it for every batch. In training it is given
    numbers in [0, 1) that belong to the example and the epoch, by which it may change the item at random."""

    def __post_init__(self) -> None:
        if np.dtype(self.dtype).kind not in "iuf":
            raise ValueError(f"a column holds integers or floats, not {self.dtype}")
        if self.decode and self.varying:
            raise ValueError("a column with decode needs varying=False: lengths must be known without decoding")

    @property
    def size(self) -> int:
        """Numbers in an item."""
        return math.prod(self.item_shape)

    def zeros(self, rows: int, length: int) -> np.ndarray:
        """The array of a batch that holds only padding."""
        return np.zeros((rows, *((length,) if self.varying else ()), *self.item_shape), self.dtype)


Columns = Mapping[str, Column]
