"""Normalisation over the last axis, computed in float32 whatever the type of the input."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class LayerNorm(nnx.Module):
    """Layer normalisation (Ba, Kiros and Hinton 2016): `(x - mean) / sqrt(variance + epsilon) * scale + bias`."""

    def __init__(self, d_model: int, *, epsilon: float = 1e-6):
        self.scale = nnx.Param(jnp.ones(d_model), axes=("embed",))
        self.bias = nnx.Param(jnp.zeros(d_model), axes=("embed",))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch d_model"]) -> Float[Array, "*batch d_model"]:
        centred = x.astype(jnp.float32) - jnp.mean(x, axis=-1, keepdims=True, dtype=jnp.float32)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(variance + self.epsilon)
        return _affine(normal, self.scale[...], self.bias[...]).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root mean square normalisation (Zhang and Sennrich 2019): `x / sqrt(mean(x^2) + epsilon) * scale`."""

    def __init__(self, d_model: int, *, epsilon: float = 1e-6):
        self.scale = nnx.Param(jnp.ones(d_model), axes=("embed",))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch d_model"]) -> Float[Array, "*batch d_model"]:
        x32 = x.astype(jnp.float32)
        normal = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.epsilon)
        return _affine(normal, self.scale[...]).astype(x.dtype)


def _affine(x: Array, scale: Array, bias: Array | None = None) -> Array:
    shape = (1,) * (x.ndim - 1) + scale.shape
    y = x * scale.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


NORMS = {"layer_norm": LayerNorm, "rms_norm": RMSNorm}
