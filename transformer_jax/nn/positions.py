"""What tells the model where a token stands."""

import jax.numpy as jnp
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
