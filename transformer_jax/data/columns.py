"""Columns: what a task keeps of every example, by name."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Column:
    """An array of every example: token ids, a label, a number, audio frames, an image.

    A batch holds it as `[rows, length, *item_shape]`, padded with 0, beside its `<name>_length` `[rows]`; where the
    length does not vary, as `[rows, *item_shape]`.
    """

    dtype: str = "int32"
    """NumPy's name of an integer or a float."""
    item_shape: tuple[int, ...] = ()
    """Shape of one item: () for a token or a label, (80,) for a frame, (224, 224, 3) for an image."""
    varying: bool = True
    """Whether an example has any number of items, or always one."""
    tokens: int = 1
    """As how many tokens an item that is alone counts towards `data.tokens_per_batch`; items of others count as one."""
    decode: Callable[[bytes], np.ndarray] | None = field(default=None, repr=False)
    """Gives the item for the bytes that `encode` gave (an image file); the pipeline calls it whenever it is needed."""

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
        """The array of a batch, all padding."""
        return np.zeros((rows, *((length,) if self.varying else ()), *self.item_shape), self.dtype)


Columns = Mapping[str, Column]
