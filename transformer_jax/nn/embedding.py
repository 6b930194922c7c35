"""Tokens to vectors, and vectors back to logits over the vocabulary."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from transformer_jax.nn.linear import Linear
from transformer_jax.parallel.axes import constrain

UNUSED = -1e30
"""Logit of the rows that pad the vocabulary: finite, and never chosen."""


def padded_vocabulary(vocab_size: int, multiple: int) -> int:
    """The number of rows that an embedding of `vocab_size` tokens has."""
    return -(-vocab_size // multiple) * multiple


def _only_real(logits: Float[Array, "batch length rows"], vocab_size: int) -> Float[Array, "batch length rows"]:
    rows = logits.shape[-1]
    return logits if rows == vocab_size else jnp.where(jnp.arange(rows) < vocab_size, logits, UNUSED)


class Embedding(nnx.Module):
    """Token embeddings times sqrt(d_model) (Vaswani et al. 2017, section 3.4), drawn from N(0, 1/d_model).

    The same matrix maps decoder outputs to logits (`logits`) where the output is tied. The table has a multiple of
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
        rngs: nnx.Rngs,
    ):
        rows = padded_vocabulary(vocab_size, vocab_multiple)
        self.table = nnx.Param(
            jax.random.normal(rngs.params(), (rows, d_model)) * d_model**-0.5, axes=("vocab", "embed")
        )
        self.vocab_size = vocab_size
        self.scale = d_model**0.5 if scale else 1.0
        self.dtype = dtype

    def __call__(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length d_model"]:
        return jnp.take(self.table[...], tokens, axis=0).astype(self.dtype) * self.scale

    def logits(self, x: Float[Array, "batch length d_model"]) -> Float[Array, "batch length rows"]:
        """Float32 logits of the product with the transposed table; `rows` is the padded vocabulary."""
        table = self.table[...].astype(self.dtype)
        logits = jnp.einsum("bld,vd->blv", x.astype(self.dtype), table, preferred_element_type=jnp.float32)
        return _only_real(constrain(logits, ("batch", "length", "vocab")), self.vocab_size)


class Output(nnx.Module):
    """An output projection with a matrix of its own, for models that do not tie it to the embedding."""

    def __init__(
        self, d_model: int, vocab_size: int, *, vocab_multiple: int = 1, dtype: str = "float32", rngs: nnx.Rngs
    ):
        rows = padded_vocabulary(vocab_size, vocab_multiple)
        self.projection = Linear((d_model,), (rows,), ("embed", "vocab"), use_bias=False, dtype=dtype, rngs=rngs)
        self.vocab_size = vocab_size

    def logits(self, x: Float[Array, "batch length d_model"]) -> Float[Array, "batch length rows"]:
        """Float32 logits; `rows` is the padded vocabulary."""
        kernel = self.projection.kernel[...].astype(self.projection.dtype)
        logits = jnp.einsum("bld,dv->blv", x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)
        return _only_real(constrain(logits, ("batch", "length", "vocab")), self.vocab_size)
