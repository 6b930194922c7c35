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
        return _normalised(x, self.scale[...], None if self.bias is None else self.bias[...], self.epsilon, True)


class RMSNorm(nnx.Module):
    """Root mean square normalisation (Zhang and Sennrich 2019): `x / sqrt(mean(x^2) + epsilon) * (offset + scale)`.

    An `offset` of 1 centres the parameter at zero, as in Gemma's published weights.
    """

    def __init__(self, size: int, *, epsilon: float = 1e-6, axis: str = "embed", offset: float = 0.0):
        self.scale = nnx.Param(jnp.full(size, 1.0 - offset), axes=(axis,))
        self.epsilon = epsilon
        self.offset = offset

    def __call__(self, x: Float[Array, "*batch size"]) -> Float[Array, "*batch size"]:
        scale = self.scale[...] + self.offset if self.offset else self.scale[...]
        return _normalised(x, scale, None, self.epsilon, False)


# The backward pass stores the input alone and recomputes the rest: next to products it costs nothing, and memory is
# what bounds a batch.
@partial(jax.checkpoint, prevent_cse=False, static_argnums=(3, 4))
def _normalised(x: Array, scale: Array, bias: Array | None, epsilon: float, centred: bool) -> Array:
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True) if centred else y
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + epsilon)
    shape = (1,) * (x.ndim - 1) + scale.shape
    y = y * scale.reshape(shape)
    return (y if bias is None else y + bias.reshape(shape)).astype(x.dtype)


NORMS = {"layer_norm": LayerNorm, "rms_norm": RMSNorm, "zero_centred_rms_norm": partial(RMSNorm, offset=1.0)}
