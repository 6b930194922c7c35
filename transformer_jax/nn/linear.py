"""Linear maps and dropout."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
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
        return self.with_bias(jnp.tensordot(x.astype(self.dtype), kernel, axes=self.inputs))

    def with_bias(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        """The map's product with its bias, where it has one."""
        if self.bias is None:
            return y
        # Broadcast before the cast: the gradient of the bias is then summed in float32.
        return y + jnp.broadcast_to(self.bias[...], y.shape).astype(self.dtype)


def side_by_side(x: Float[Array, "..."], maps: Sequence[Linear]) -> list[Float[Array, "..."]]:
    """What several maps make of one input, in one product; their outputs may differ in the last dimension alone.

    The gradients by the input are one product too, which devices that divide the outputs sum once.
    """
    kernel = jnp.concatenate([linear.kernel[...].astype(linear.dtype) for linear in maps], axis=-1)
    y = jnp.tensordot(x.astype(kernel.dtype), kernel, axes=maps[0].inputs)
    ends = np.cumsum([linear.kernel.shape[-1] for linear in maps])[:-1].tolist()
    return [linear.with_bias(part) for linear, part in zip(maps, jnp.split(y, ends, axis=-1), strict=True)]


def dropout(x: Float[Array, "..."], rate: float, key: PRNGKeyArray | None) -> Float[Array, "..."]:
    """Zeroes each element with probability `rate` and divides the others by `1 - rate`; `key=None` changes nothing."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, (x.astype(jnp.float32) / (1 - rate)).astype(x.dtype), jnp.zeros_like(x))
