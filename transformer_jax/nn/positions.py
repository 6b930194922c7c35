"""What tells the model where a token stands: added vectors, rotations of queries and keys, biases of scores."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from transformer_jax.nn.initializers import PAPER, Initializer
from transformer_jax.parallel.axes import constrain


def sinusoidal_positions(positions: Int[Array, "*shape"], d_model: int) -> Float[Array, "*shape d_model"]:
    """Sinusoids of Vaswani et al. 2017, section 3.5, sine and cosine interleaved as printed there.

    `PE[2i] = sin(position / 10000^(2i/d_model))` and `PE[2i+1] = cos(position / 10000^(2i/d_model))`.
    Raises ValueError when d_model is odd.
    """
    if d_model % 2:
        raise ValueError(f"sinusoidal positions need an even d_model, not {d_model}")
    angles = _angles(positions, d_model, 10_000.0)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*positions.shape, d_model)


def rotate(
    x: Float[Array, "batch length heads head_dim"], positions: Int[Array, "#batch length"], base: float = 10_000.0
) -> Float[Array, "batch length heads head_dim"]:
    """Rotary positions (Su et al. 2021, "RoFormer", section 3.2): the scores of rotated vectors know only distances.

    Element i and element i + head_dim/2 are turned together by the angle `position / base^(2i/head_dim)`. (The paper
    pairs neighbours; the halves are what Llama's published weights expect. The two differ by an order of the elements.)
    Raises ValueError when head_dim is odd.
    """
    if x.shape[-1] % 2:
        raise ValueError(f"rotary positions need an even head_dim, not {x.shape[-1]}")
    angles = _angles(positions, x.shape[-1], base)[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x.dtype)


def _angles(positions: Int[Array, "*shape"], size: int, base: float) -> Float[Array, "*shape pairs"]:
    """`position / base^(2i/size)` for every pair of elements."""
    wavelength = base ** (jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    return positions[..., None].astype(jnp.float32) / wavelength.reshape((1,) * positions.ndim + (-1,))


class LearnedPositions(nnx.Module):
    """One trained vector for each position below `max_length`."""

    def __init__(self, max_length: int, d_model: int, *, initializer: Initializer = PAPER, rngs: nnx.Rngs):
        table = initializer.table(rngs.params(), (max_length, d_model), "positions", d_model)
        self.table = nnx.Param(table, axes=("positions", "embed"))

    def __call__(self, positions: Int[Array, "batch length"]) -> Float[Array, "batch length d_model"]:
        # Padding may stand past the end; it is masked, and must be finite for that.
        table = constrain(self.table[...], ("positions", "gathered"))
        return jnp.take(table, positions, axis=0, mode="clip")


class SinusoidalPositions(nnx.Module):
    """The fixed sinusoids of `sinusoidal_positions`, computed where they are used."""

    def __init__(self, max_length: int, d_model: int, *, initializer: Initializer = PAPER, rngs: nnx.Rngs):
        self.d_model = d_model

    def __call__(self, positions: Int[Array, "batch length"]) -> Float[Array, "batch length d_model"]:
        return sinusoidal_positions(positions, self.d_model)


class RelativeBias(nnx.Module):
    """A trained bias of the scores for each head and distance (Raffel et al. 2020, "T5", section 2.1).

    Distances fall into `buckets`: half of them one distance each, the others ever wider up to `max_distance`, beyond
    which all share the last. `causal` gives all buckets to the past; otherwise past and future have half each.
    """

    def __init__(self, num_heads: int, *, causal: bool, buckets: int = 32, max_distance: int = 128, rngs: nnx.Rngs):
        table = jax.random.normal(rngs.params(), (buckets, num_heads)) * num_heads**-0.5
        self.table = nnx.Param(table, axes=("buckets", "heads"))
        self.causal = causal
        self.buckets = buckets
        self.max_distance = max_distance

    def __call__(
        self, query: Int[Array, "#batch query"], key: Int[Array, "#batch key"]
    ) -> Float[Array, "#batch heads query key"]:
        past = query[:, :, None] - key[:, None, :]
        buckets = self.buckets if self.causal else self.buckets // 2
        start = jnp.zeros_like(past) if self.causal else jnp.where(past < 0, buckets, 0)
        distance = jnp.maximum(past, 0) if self.causal else jnp.abs(past)
        exact = buckets // 2
        way = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(self.max_distance / exact)
        wide = jnp.minimum(exact + (way * (buckets - exact)).astype(jnp.int32), buckets - 1)
        bucket = start + jnp.where(distance < exact, distance, wide)
        return jnp.moveaxis(jnp.take(self.table[...], bucket, axis=0), -1, 1)


class AlibiBias(nnx.Module):
    """Scores fall linearly with distance, in each head at a slope of its own (Press et al. 2022, section 3)."""

    def __init__(self, num_heads: int, *, causal: bool, rngs: nnx.Rngs):
        self.num_heads = num_heads

    def __call__(
        self, query: Int[Array, "#batch query"], key: Int[Array, "#batch key"]
    ) -> Float[Array, "#batch heads query key"]:
        distance = jnp.abs(query[:, :, None] - key[:, None, :]).astype(jnp.float32)
        return distance[:, None] * -jnp.asarray(alibi_slopes(self.num_heads)).reshape(1, -1, 1, 1)


def alibi_slopes(num_heads: int) -> Float[np.ndarray, " heads"]:
    """2^(-8/n), 2^(-16/n), ... for n heads; where n is no power of two, those of the power below and every other one
    of twice that power (github.com/ofirpress/attention_with_linear_biases)."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    return np.array(slopes + between[: num_heads - power], np.float32)


ABSOLUTE = {"sinusoidal": SinusoidalPositions, "learned": LearnedPositions}
"""Added to the embeddings."""
BIASES = {"relative": RelativeBias, "alibi": AlibiBias}
"""Added to the scores of self-attention."""
POSITIONS = (*ABSOLUTE, "rotary", *BIASES, "none")
