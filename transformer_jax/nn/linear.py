"""Linear maps and dropout."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray


class Linear(nnx.Module):
    """A linear map from the trailing `in_shape` of its input to `out_shape`, with named axes and an optional bias.

    The kernel is drawn from the uniform distribution of Glorot and Bengio (2010), with the fans of the flattened map.
    Parameters are float32; the product runs in `dtype`.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        axes: tuple[str, ...],
        *,
        use_bias: bool = True,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        limit = math.sqrt(6 / (math.prod(in_shape) + math.prod(out_shape)))
        kernel = jax.random.uniform(rngs.params(), in_shape + out_shape, minval=-limit, maxval=limit)
        self.kernel = nnx.Param(kernel, axes=axes)
        self.bias = nnx.Param(jnp.zeros(out_shape), axes=axes[len(in_shape) :]) if use_bias else None
        self.inputs = len(in_shape)
        self.dtype = dtype

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`[*batch, *in_shape]` to `[*batch, *out_shape]`, in `dtype`."""
        kernel = self.kernel[...].astype(self.dtype)
        y = jnp.tensordot(x.astype(self.dtype), kernel, axes=self.inputs)
        if self.bias is None:
            return y
        # Broadcast before the cast: the gradient of the bias is then summed in float32.
        return y + jnp.broadcast_to(self.bias[...], y.shape).astype(self.dtype)


def dropout(x: Float[Array, "..."], rate: float, key: PRNGKeyArray | None) -> Float[Array, "..."]:
    """Zeroes each element with probability `rate` and divides the others by `1 - rate`; `key=None` changes nothing."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, (x.astype(jnp.float32) / (1 - rate)).astype(x.dtype), jnp.zeros_like(x))
