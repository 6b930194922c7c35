"""Normalisation over the last axis, computed in float32 whatever the type of the input."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class LayerNorm(nnx.Module):
    """Layer normalisation (Ba, Kiros and Hinton 2016): `(x - mean) / sqrt(variance + epsilon) * scale + bias`."""

    def __init__(self, size: int, *, epsilon: float = 1e-6, axis: str = "embed", use_bias: bool = True):
        self.scale = nnx.Param(jnp.ones(size), axes=(axis,))
        self.bias = nnx.Param(jnp.zeros(size), axes=(axis,)) if use_bias else None
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch size"]) -> Float[Array, "*batch size"]:
        return _layer_norm(x, self.scale[...], None if self.bias is None else self.bias[...], self.epsilon)


class RMSNorm(nnx.Module):
    """Root mean square normalisation (Zhang and Sennrich 2019): `x / sqrt(mean(x^2) + epsilon) * (offset + scale)`.

    An `offset` of 1 centres the parameter at zero, as in Gemma's published weights.
    """

    def __init__(self, size: int, *, epsilon: float = 1e-6, axis: str = "embed", offset: float = 0.0):
        self.scale = nnx.Param(jnp.full(size, 1.0 - offset), axes=(axis,))
        self.epsilon = epsilon
        self.offset = offset

    def __call__(self, x: Float[Array, "*batch size"]) -> Float[Array, "*batch size"]:
        return _rms_norm(x, self.scale[...] + self.offset if self.offset else self.scale[...], self.epsilon)


# The backward pass stores the input alone and recomputes the rest: next to products it costs nothing, and memory is
# what bounds a batch.
@partial(jax.checkpoint, prevent_cse=False, static_argnums=3)
def _layer_norm(x: Array, scale: Array, bias: Array | None, epsilon: float) -> Array:
    centred = x.astype(jnp.float32) - jnp.mean(x, axis=-1, keepdims=True, dtype=jnp.float32)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return _affine(centred * jax.lax.rsqrt(variance + epsilon), scale, bias).astype(x.dtype)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=2)
def _rms_norm(x: Array, scale: Array, epsilon: float) -> Array:
    x32 = x.astype(jnp.float32)
    normal = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + epsilon)
    return _affine(normal, scale).astype(x.dtype)


def _affine(x: Array, scale: Array, bias: Array | None = None) -> Array:
    shape = (1,) * (x.ndim - 1) + scale.shape
    y = x * scale.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


NORMS = {"layer_norm": LayerNorm, "rms_norm": RMSNorm, "zero_centred_rms_norm": partial(RMSNorm, offset=1.0)}
