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
        draw: Callable[[PRNGKeyArray, tuple[int, ...], tuple[int, ...]], Array] = PAPER.kernel,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(draw(rngs.params(), in_shape, out_shape), axes=axes)
        self.bias = nnx.Param(jnp.zeros(out_shape), axes=axes[len(in_shape) :]) if use_bias else None
        self.inputs = tuple(range(len(in_shape)))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`[*batch, *in_shape]` to `[*batch, *out_shape]`, in `dtype`."""
        return self.with_bias(product(x, self.kernel[...], self.inputs, self.dtype, self.dtype))

    def with_bias(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        """The map's product with its bias, where it has one."""
        if self.bias is None:
            return y
        # Broadcast before the cast: the gradient of the bias is then summed in float32.
        return y + jnp.broadcast_to(self.bias[...], y.shape).astype(self.dtype)


def in_one_product(x: Float[Array, "..."], maps: Sequence[Linear]) -> list[Float[Array, "..."]]:
    """Applies several maps to one input in one product; their outputs may differ in the last dimension alone.

    The gradients by the input are one product too, which devices that shard the outputs sum once.
    """
    kernel = jnp.concatenate([linear.kernel[...] for linear in maps], axis=-1)
    y: Any = product(x, kernel, maps[0].inputs, maps[0].dtype, maps[0].dtype)
    ends = np.cumsum([linear.kernel.shape[-1] for linear in maps])[:-1].tolist()
    return [linear.with_bias(part) for linear, part in zip(maps, jnp.split(y, ends, axis=-1), strict=True)]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def product(x: Array, kernel: Array, inputs: tuple[int, ...], dtype: str, result: str) -> Array:
    """The product in `dtype`, over the last dimensions of `x` and those of the kernel that `inputs` names, in order.

    The gradient too is products in `dtype`, even where the `result` is float32; left to itself, JAX would multiply with
    its float32 gradient. That of the kernel has the kernel's type, so that devices sum it in float32.
    """
    batch = x.ndim - len(inputs)
    return _multiply(x, kernel, (tuple(range(batch, x.ndim)), inputs), dtype, result)


def _product_forward(x, kernel, inputs, dtype, result) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel, inputs, dtype, result), (x, kernel)


def _product_backward(inputs, dtype, result, stored, gradient) -> tuple[Array, Array]:
    x, kernel = stored
    batch = x.ndim - len(inputs)
    outputs = tuple(i for i in range(kernel.ndim) if i not in inputs)
    of_x = _multiply(gradient, kernel, (tuple(range(batch, gradient.ndim)), outputs), dtype, x.dtype)
    rows = (tuple(range(batch)),) * 2
    pair = (x, gradient) if inputs < outputs else (gradient, x)  # in the order of the kernel's dimensions
    return of_x, _multiply(*pair, rows, dtype, kernel.dtype)


product.defvjp(_product_forward, _product_backward)


def _multiply(one: Array, other: Array, axes: tuple[tuple[int, ...], ...], dtype: Any, result: Any) -> Array:
    """The product of two arrays in `dtype`, summed in float32, in the type `result`."""
    one, other = one.astype(dtype), other.astype(dtype)
    preferred = None if jnp.dtype(result) == one.dtype else jnp.float32
    if preferred and jax.__version_info__ < (0, 10) and jax.default_backend() == "cpu":
        # XLA for CPUs lacked such products; that of the same numbers as float32 is equal.
        one, other = one.astype(jnp.float32), other.astype(jnp.float32)
    return jnp.tensordot(one, other, axes=(axes[0], axes[1]), preferred_element_type=preferred).astype(result)


def dropout(x: Float[Array, "..."], rate: float, key: PRNGKeyArray | None) -> Float[Array, "..."]:
    """Zeroes each element with probability `rate` and divides the others by `1 - rate`; `key=None` changes nothing."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, (x.astype(jnp.float32) / (1 - rate)).astype(x.dtype), jnp.zeros_like(x))


def drop_rows(x: Float[Array, "..."], rate: Float[Array, ""], key: PRNGKeyArray) -> Float[Array, "..."]:
    """Zeroes each row with probability `rate` and divides the others by `1 - rate` (Huang et al. 2016)."""
    keep = jax.random.bernoulli(key, 1 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x.astype(jnp.float32) / (1 - rate), 0.0).astype(x.dtype)
