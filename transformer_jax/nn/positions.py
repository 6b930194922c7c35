"""What tells the model where a token stands."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int


def sinusoidal_positions(positions: Int[Array, "*shape"], d_model: int) -> Float[Array, "*shape d_model"]:
    """Sinusoids of Vaswani et al. 2017, section 3.5, sine and cosine interleaved as printed there.

    `PE[2i] = sin(position / 10000^(2i/d_model))` and `PE[2i+1] = cos(position / 10000^(2i/d_model))`.
    Raises ValueError when d_model is odd.
    """
    if d_model % 2:
        raise ValueError(f"sinusoidal positions need an even d_model, not {d_model}")
    wavelength = 10000.0 ** (jnp.arange(0, d_model, 2, dtype=jnp.float32) / d_model)
    angles = positions[..., None].astype(jnp.float32) / wavelength.reshape((1,) * positions.ndim + (-1,))
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*positions.shape, d_model)


class LearnedPositions(nnx.Module):
    """One trained vector for each position below `max_length`."""

    def __init__(self, max_length: int, d_model: int, *, rngs: nnx.Rngs):
        table = jax.random.normal(rngs.params(), (max_length, d_model)) * d_model**-0.5
        self.table = nnx.Param(table, axes=("positions", "embed"))

    def __call__(self, positions: Int[Array, "batch length"]) -> Float[Array, "batch length d_model"]:
        # Padding may stand past the end; it is masked, and must be finite for that.
        return jnp.take(self.table[...], positions, axis=0, mode="clip")


class SinusoidalPositions(nnx.Module):
    """The fixed sinusoids of `sinusoidal_positions`, computed where they are used."""

    def __init__(self, max_length: int, d_model: int, *, rngs: nnx.Rngs):
        self.d_model = d_model

    def __call__(self, positions: Int[Array, "batch length"]) -> Float[Array, "batch length d_model"]:
        return sinusoidal_positions(positions, self.d_model)


POSITIONS = {"sinusoidal": SinusoidalPositions, "learned": LearnedPositions}
