"""Columns: the arrays that a task encodes of every example, by name."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Column:
    """An array of every example: token ids, a label, a number, audio frames, an image.

    A batch holds it as `[rows, length, *item_shape]`, padded with 0, beside its `<name>_length` `[rows]`, or as
    `[rows, *item_shape]` if an example always has one item.
    """

    dtype: str = "int32"
    """NumPy's name of an integer or a float."""
    item_shape: tuple[int, ...] = ()
    """Shape of one item: () for a token or a label, (80,) for a frame, (224, 224, 3) for an image."""
    varying: bool = True
    """Whether the number of items varies, or an example always has one."""
    tokens: int = 1
    """Tokens towards `data.tokens_per_batch` of an item that is alone; an item of a varying number is one."""
    decode: Callable[[bytes], np.ndarray] | None = field(default=None, repr=False)
    """From the bytes that `encode` gave to the item; the pipeline calls it for every batch."""

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
