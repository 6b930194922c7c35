"""Linear maps and dropout."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from transformer_jax.nn.initializers import PAPER


class Linear(nnx.Module):
    """A linear map from the trailing `in_shape` of its input to `out_shape`, with named axes and an optional bias.

    `draw` makes the kernel from a key, `in_shape` and `out_shape` (`nn/initializers.py`). Parameters are float32; the
    product runs in `dtype`.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        axes: tuple[str, ...],
        *,
        use_bias: bool = True,
        dtype: str = "float32",
        draw: Callable[[PRNGKeyArray, tuple[int, ...], tuple[int, ...]], Array] = PAPER.map,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(draw(rngs.params(), in_shape, out_shape), axes=axes)
        self.bias = nnx.Param(jnp.zeros(out_shape), axes=axes[len(in_shape) :]) if use_bias else None
        self.inputs = len(in_shape)
        self.dtype = dtype

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`[*batch, *in_shape]` to `[*batch, *out_shape]`, in `dtype`."""
        return self.with_bias(_product(x.astype(self.dtype), self.kernel[...], self.inputs))

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
    kernel = jnp.concatenate([linear.kernel[...] for linear in maps], axis=-1)
    y: Any = _product(x.astype(maps[0].dtype), kernel, maps[0].inputs)
    ends = np.cumsum([linear.kernel.shape[-1] for linear in maps])[:-1].tolist()
    return [linear.with_bias(part) for linear, part in zip(maps, jnp.split(y, ends, axis=-1), strict=True)]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: Array, kernel: Array, inputs: int) -> Array:
    """`[*batch, *in]` times `[*in, *out]`, over the `inputs` dimensions of `in`, in the type of `x`.

    The gradient of the kernel has the kernel's type, so that devices sum it in float32.
    """
    return jnp.tensordot(x, kernel.astype(x.dtype), axes=inputs)


def _product_forward(x: Array, kernel: Array, inputs: int) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, kernel, inputs), (x, kernel)


def _product_backward(inputs: int, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    outputs, batch = kernel.ndim - inputs, x.ndim - inputs
    of_x = jax.lax.dot_general(
        gradient,
        kernel.astype(x.dtype),
        ((tuple(range(batch, batch + outputs)), tuple(range(inputs, inputs + outputs))), ((), ())),
    )
    rows = tuple(range(batch))
    of_kernel = float32_product(x, gradient, partial(jnp.tensordot, axes=(rows, rows)))
    return of_x, of_kernel.astype(kernel.dtype)


_product.defvjp(_product_forward, _product_backward)


def float32_product(one: Array, other: Array, multiply: Callable[..., Array]) -> Array:
    """The float32 result of a function such as `jnp.matmul`, of two arrays in another type."""
    if jax.__version_info__ < (0, 10) and jax.default_backend() == "cpu":
        # XLA for CPUs lacked such products; that of the same numbers as float32 is equal.
        one, other = one.astype(jnp.float32), other.astype(jnp.float32)
    return multiply(one, other, preferred_element_type=jnp.float32)


def dropout(x: Float[Array, "..."], rate: float, key: PRNGKeyArray | None) -> Float[Array, "..."]:
    """Zeroes each element with probability `rate` and divides the others by `1 - rate`; `key=None` changes nothing."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, (x.astype(jnp.float32) / (1 - rate)).astype(x.dtype), jnp.zeros_like(x))
