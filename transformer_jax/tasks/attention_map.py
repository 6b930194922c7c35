"""The attention weights of a model for one input."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class AttentionMap:
    """One kind of attention, in all layers and heads, for one input; ValueError where weights and tokens do not fit."""

    title: str
    """Such as Cross-attention."""
    weights: Float[np.ndarray, "layers heads queries keys"]
    """Every row, a query's weights over the keys, sums to one."""
    queries: list[str]
    """The tokens that attend."""
    keys: list[str]
    """The tokens that are attended to."""

    def __post_init__(self) -> None:
        if self.weights.ndim != 4 or self.weights.shape[2:] != (len(self.queries), len(self.keys)):
            raise ValueError(
                f"{self.title} has shape {self.weights.shape}; it must be [layers, heads, {len(self.queries)}, "
                f"{len(self.keys)}]: a row for each query token and a column for each key token"
            )
