"""Tokens to vectors, and vectors back to logits over the vocabulary."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from transformer_jax.nn.initializers import PAPER, Initializer
from transformer_jax.nn.linear import Linear, float32_product
from transformer_jax.parallel.axes import constrain

Logits = Callable[[Float[Array, "batch length d_model"]], Float[Array, "batch length rows"]]
"""From vectors to logits; `rows` is the padded vocabulary."""
UNUSED = -1e30
"""Logit of the rows that pad the vocabulary: finite, and never chosen."""


def padded_vocabulary(vocab_size: int, multiple: int) -> int:
    """The number of rows that an embedding of `vocab_size` tokens has."""
    return -(-vocab_size // multiple) * multiple


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(
    x: Float[Array, "batch length d_model"], table: Float[Array, "rows d_model"], dtype: str
) -> Float[Array, "batch length rows"]:
    """Float32 logits of a product in `dtype`, whose gradient is two more products in `dtype`.

    Left to itself, JAX multiplies with the float32 gradient of the logits: two thirds of the work in the slow type.
    """
    return constrain(_multiply("bld,vd->blv", x, table, dtype), ("batch", "length", "vocab"))


def _product_forward(x: Array, table: Array, dtype: str) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, table, dtype), (x, table)


def _product_backward(dtype: str, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, table = kept
    of_x = _multiply("blv,vd->bld", gradient, table, dtype)
    of_table = _multiply("blv,bld->vd", gradient, x, dtype)
    return of_x.astype(x.dtype), of_table.astype(table.dtype)


def _multiply(subscripts: str, one: Array, other: Array, dtype: str) -> Array:
    """The float32 product of two arrays in `dtype`."""
    return float32_product(one.astype(dtype), other.astype(dtype), partial(jnp.einsum, subscripts))


_product.defvjp(_product_forward, _product_backward)


def _make_logits(table: Float[Array, "rows d_model"], dtype: str, vocab_size: int) -> Logits:
    """Where devices share the table out, it is gathered here, once for all calls: not in each, and never the logits."""
    table = constrain(table, ("vocab", "gathered"))
    return lambda x: _only_real(_product(x, table, dtype), vocab_size)


def _only_real(logits: Float[Array, "batch length rows"], vocab_size: int) -> Float[Array, "batch length rows"]:
    rows = logits.shape[-1]
    return logits if rows == vocab_size else jnp.where(jnp.arange(rows) < vocab_size, logits, UNUSED)


class Embedding(nnx.Module):
    """Token embeddings times sqrt(d_model) (Vaswani et al. 2017, section 3.4), drawn by `initializer`.

    The same matrix maps decoder outputs to logits (`make_logits`) where the output is tied. The table has a multiple of
    `vocab_multiple` rows, so that any mesh divides it; the rows that stand for no token are masked in the logits.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        *,
        scale: bool = True,
        vocab_multiple: int = 1,
        dtype: str = "float32",
        initializer: Initializer = PAPER,
        rngs: nnx.Rngs,
    ):
        rows = padded_vocabulary(vocab_size, vocab_multiple)
        table = initializer.table(rngs.params(), (rows, d_model), "tokens", d_model)
        self.table = nnx.Param(table, axes=("vocab", "embed"))
        self.vocab_size = vocab_size
        self.scale = d_model**0.5 if scale else 1.0
        self.dtype = dtype

    def __call__(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length d_model"]:
        # Whole rows: of parts of rows the compiler would look up the whole batch, and then share it out anew.
        table = constrain(self.table[...], ("vocab", "gathered"))
        return jnp.take(table, tokens, axis=0).astype(self.dtype) * self.scale

    def make_logits(self) -> Logits:
        """The function from vectors to the float32 logits of their product with the transposed table."""
        return _make_logits(self.table[...], self.dtype, self.vocab_size)


class Output(nnx.Module):
    """An output projection with a matrix of its own, for models that do not tie it to the embedding."""

    def __init__(
        self,
        d_model: int,
        vocab_size: int,
        *,
        vocab_multiple: int = 1,
        dtype: str = "float32",
        initializer: Initializer = PAPER,
        rngs: nnx.Rngs,
    ):
        shape = (d_model,), (padded_vocabulary(vocab_size, vocab_multiple),)
        self.projection = Linear(
            *shape, ("embed", "vocab"), use_bias=False, dtype=dtype, draw=initializer.map, rngs=rngs
        )
        self.vocab_size = vocab_size

    def make_logits(self) -> Logits:
        """The function from vectors to float32 logits."""
        return _make_logits(self.projection.kernel[...].T, self.projection.dtype, self.vocab_size)
