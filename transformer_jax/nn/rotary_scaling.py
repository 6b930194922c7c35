"""How the angles of rotary positions change for contexts that are longer than a model was trained on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax.numpy as jnp
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Array, Float, Int

from transformer_jax.nn.mask import EMPTY

Frequencies = Float[Array, "#batch pairs"]
"""Radians by which each pair of elements is rotated at position 1."""


@dataclass(frozen=True)
class RotaryScaling:
    """No scaling, and what the others have in common."""

    kinds: ClassVar[Mapping[str, type["RotaryScaling"]]]
    """The kinds that a name stands for."""

    def frequencies(self, base: float, size: int, ids: Int[Array, "#batch length"]) -> tuple[Frequencies, float]:
        """Frequencies of `size / 2` pairs, and a factor of sines and cosines."""
        return rotary_frequencies(base, size), 1.0


@dataclass(frozen=True)
class Interpolation(RotaryScaling):
    """Positions divided by a factor (Chen et al. 2023, "Position Interpolation")."""

    factor: Annotated[float, Ge(1), Le(2**20)] = 1.0

    def frequencies(self, base: float, size: int, ids: Int[Array, "#batch length"]) -> tuple[Frequencies, float]:
        return rotary_frequencies(base, size) / self.factor, 1.0


@dataclass(frozen=True)
class Dynamic(RotaryScaling):
    """A base that grows with the text beyond the trained length ("dynamic NTK", as transformers has it).

    A row's angles depend on its longest position: padding and later tokens beyond `original_length` change the earlier
    ones, and keys in a cache keep the angles that they were written with.
    """

    factor: Annotated[float, Ge(1), Le(2**20)] = 1.0
    original_length: Annotated[int, Ge(1), Lt(2**31)] = 2048
    """Positions that the model was trained on."""

    def frequencies(self, base: float, size: int, ids: Int[Array, "#batch length"]) -> tuple[Frequencies, float]:
        longest = jnp.max(jnp.where(ids < EMPTY, ids, 0), axis=-1, keepdims=True) + 1
        length = jnp.maximum(longest, self.original_length).astype(jnp.float32)
        grown = self.factor * length / self.original_length - (self.factor - 1)
        return rotary_frequencies(base * grown ** (size / (size - 2)), size), 1.0


@dataclass(frozen=True)
class Llama3(RotaryScaling):
    """Long wavelengths divided by a factor, short ones kept, those between interpolated (Llama 3.1, as published)."""

    factor: Annotated[float, Ge(1), Le(2**20)] = 8.0
    low_frequency_factor: Annotated[float, Gt(0)] = 1.0
    """Wavelengths above original_length over this are divided."""
    high_frequency_factor: Annotated[float, Gt(0)] = 4.0
    """Wavelengths below original_length over this are kept."""
    original_length: Annotated[int, Ge(1), Lt(2**31)] = 8192
    """Positions that the model was trained on."""

    def frequencies(self, base: float, size: int, ids: Int[Array, "#batch length"]) -> tuple[Frequencies, float]:
        plain = rotary_frequencies(base, size)
        turns = self.original_length * plain / (2 * math.pi)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        kept = jnp.clip((turns - low) / (high - low), 0, 1)
        return plain * (kept + (1 - kept) / self.factor), 1.0


@dataclass(frozen=True)
class Yarn(RotaryScaling):
    """Pairs that turn often kept, those that turn seldom interpolated (Peng et al. 2023, "YaRN", section 3)."""

    factor: Annotated[float, Ge(1), Le(2**20)] = 1.0
    original_length: Annotated[int, Ge(1), Lt(2**31)] = 2048
    """Positions that the model was trained on."""
    beta_fast: Annotated[float, Gt(0)] = 32.0
    """Turns within original_length from which a pair is kept."""
    beta_slow: Annotated[float, Gt(0)] = 1.0
    """Turns up to which a pair is interpolated."""
    attention_factor: Annotated[float, Gt(0), Le(2**10)] | None = None
    """Factor of queries and keys; None: 0.1 ln(factor) + 1."""

    def frequencies(self, base: float, size: int, ids: Int[Array, "#batch length"]) -> tuple[Frequencies, float]:
        def pair(turns: float) -> float:
            """The pair that turns so often within `original_length`."""
            return size * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = max(math.floor(pair(self.beta_fast)), 0), min(math.ceil(pair(self.beta_slow)), size - 1)
        interpolated = jnp.clip((jnp.arange(size // 2, dtype=jnp.float32)[None] - low) / max(high - low, 0.001), 0, 1)
        plain = rotary_frequencies(base, size)
        magnitude = 0.1 * math.log(self.factor) + 1 if self.attention_factor is None else self.attention_factor
        return plain * (1 - interpolated) + plain / self.factor * interpolated, magnitude


RotaryScaling.kinds = {
    "none": RotaryScaling,
    "linear": Interpolation,
    "dynamic": Dynamic,
    "llama3": Llama3,
    "yarn": Yarn,
}


def rotary_frequencies(base: float | Float[Array, "batch 1"], size: int) -> Frequencies:
    """`1 / base^(2i/size)` for every pair of elements (Su et al. 2021, section 3.2)."""
    return 1.0 / base ** (jnp.arange(0, size, 2, dtype=jnp.float32)[None] / size)
