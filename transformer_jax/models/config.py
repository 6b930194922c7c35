"""What the three variants share: the configuration of a model over tokens, and its way in and out."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transformer_jax.nn.embedding import Embedding, Logits, Output
from transformer_jax.nn.initializers import SCHEMES, Initializer
from transformer_jax.nn.kernels import AUTO, FUSED, PLAIN
from transformer_jax.nn.layer import LayerConfig
from transformer_jax.nn.linear import dropout
from transformer_jax.nn.named import choose
from transformer_jax.nn.positions import ABSOLUTE, POSITIONS
from transformer_jax.parallel.axes import constrain

Tokens = Int[Array, "batch length"]
Lengths = Int[Array, " batch"]


@dataclass(frozen=True)
class TransformerConfig(LayerConfig):
    """A model over tokens; its layers are described by the fields of `LayerConfig`."""

    num_layers: int = 6
    """Layers of a stack."""
    vocab_size: int = 0
    """Tokens of the vocabulary; 0: filled in from the tokenizer."""
    tie_output: bool = True
    """The embedding is the output projection as well."""
    embedding_scale: bool = True
    """Embeddings are multiplied by sqrt(d_model)."""
    embedding_norm: bool = False
    """A norm behind the embeddings."""
    vocab_multiple: int = 8
    """Embedding tables have a multiple of this many rows; those without a token are masked."""
    max_length: int = 1024
    """Positions that a learned table has."""
    final_norm: bool = False
    """A norm behind each stack; with norm_placement pre it belongs there."""
    remat: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    unroll: bool = False
    """Compile every layer on its own instead of a loop over layers."""

    def stack(self) -> dict[str, Any]:
        """The arguments of a `Stack` beside layers."""
        return {"final_norm": self.final_norm, "remat": self.remat, "unroll": self.unroll}

    def make_embedding(self, vocab_size: int, *, rngs: nnx.Rngs) -> Embedding:
        """A token table of this model."""
        return Embedding(
            vocab_size,
            self.d_model,
            scale=self.embedding_scale,
            vocab_multiple=self.vocab_multiple,
            dtype=self.dtype,
            initializer=Initializer(self.initializer),
            rngs=rngs,
        )

    def check(self) -> None:
        """Raises ValueError for a configuration that cannot be built."""
        for name in ("d_model", "num_heads", "d_ff", "num_layers", "vocab_size", "vocab_multiple"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be positive, not {getattr(self, name)}")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name} is a probability below 1, not {getattr(self, name)}")
        for name in ("norm_epsilon", "soft_cap"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"model.{name} must not be negative, not {getattr(self, name)}")
        if self.d_model > 2**20 or self.d_ff > 2**22:
            raise ValueError(f"model.d_model {self.d_model} and d_ff {self.d_ff} are more than any machine holds")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.dtype is float32 or bfloat16, not {self.dtype!r}")
        if self.attention_kernel not in (AUTO, PLAIN, *FUSED):
            known = ", ".join((AUTO, PLAIN, *FUSED))
            raise ValueError(f"model.attention_kernel is one of {known}, not {self.attention_kernel!r}")
        choose("model.initializer", self.initializer, SCHEMES)
        choose("model.positions", self.positions, dict.fromkeys(POSITIONS))

    def stack_parameters(self, num_layers: int, *, cross_attention: bool = False) -> int:
        """Parameters of a stack, by a closed formula."""
        missing = 0 if self.first_attention_norm else self.norm_parameters(self.d_model)
        final = self.norm_parameters(self.d_model) if self.final_norm else 0
        bias = 32 * self.num_heads if self.positions == "relative" else 0
        return num_layers * self.layer_parameters(cross_attention=cross_attention) - missing + final + bias

    def embedding_parameters(self) -> int:
        """Parameters between tokens and vectors, on both ends; rows that only pad the vocabulary are not counted."""
        rows = self.vocab_size * (1 if self.tie_output else 2)
        rows += self.max_length if self.positions == "learned" else 0
        return rows * self.d_model + (self.norm_parameters(self.d_model) if self.embedding_norm else 0)


class TokenModel(nnx.Module):
    """Tokens to vectors and vectors to logits: the ends of every variant.

    `embedding` is held here, once, because whatever reads tokens and the output share it.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        config.check()
        self.embedding = config.make_embedding(config.vocab_size, rngs=rngs)
        initializer = Initializer(config.initializer)
        absolute = ABSOLUTE.get(config.positions)
        self.positions = (
            None
            if absolute is None
            else absolute(config.max_length, config.d_model, initializer=initializer, rngs=rngs)
        )
        self.embedding_norm = config.make_norm(config.d_model) if config.embedding_norm else None
        output = partial(Output, config.d_model, config.vocab_size, vocab_multiple=config.vocab_multiple, rngs=rngs)
        self.output = None if config.tie_output else output(dtype=config.dtype, initializer=initializer)
        self.dropout = config.dropout

    def embed(
        self,
        tokens: Tokens,
        positions: Int[Array, "#batch length"] | None = None,
        *,
        embedding: Embedding | None = None,
        added: Float[Array, "batch length d_model"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch length d_model"]:
        """Vectors of tokens at positions (default 0, 1, 2, ...), with what else is `added` to them."""
        x = (embedding or self.embedding)(tokens)
        if self.positions is not None:
            if positions is None:
                positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
            x = x + self.positions(jnp.broadcast_to(positions, tokens.shape)).astype(x.dtype)
        x = x if added is None else x + added.astype(x.dtype)
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        return dropout(constrain(x, ("batch", "length", "embed")), self.dropout, key)

    def logits(self, x: Float[Array, "batch length d_model"]) -> Float[Array, "batch length rows"]:
        """Float32 logits of the next token; `rows` is the padded vocabulary."""
        return self.make_logits()(x)

    def make_logits(self) -> Logits:
        """The function `logits`, to be made once where it is called often."""
        return (self.output or self.embedding).make_logits()
