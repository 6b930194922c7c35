"""The decoder of encoder-decoder and decoder-only models: from tokens to logits, at once or token by token."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transformer_jax.models.config import TransformerConfig
from transformer_jax.nn.embedding import Logits, Output, make_logits
from transformer_jax.nn.inputs import Lengths, TokenInput, Tokens
from transformer_jax.nn.mask import AttentionMask
from transformer_jax.nn.positions import PositionIds
from transformer_jax.nn.stack import Stack, StackCache


@dataclass(frozen=True)
class DecoderConfig(TransformerConfig):
    """A model that writes tokens; its stack is described by the fields of `LayerConfig`."""

    tie_output: bool = True
    """The embedding is the output projection as well."""
    output_bias: bool = False
    """A bias of the logits for each token (Marian, BART, Phi)."""
    logits_scale: Annotated[float, Gt(0)] = 1.0
    """Factor of the logits; T5 with a tied output has 1/sqrt(d_model)."""
    logits_soft_cap: Annotated[float, Ge(0)] = 0.0
    """Logits l become cap * tanh(l / cap), as in Gemma 2; 0: they stay."""

    def check(self) -> None:
        """Raises ValueError for a configuration that cannot be built."""
        super().check()
        if self.tie_output and self.embedding_width != self.d_model:
            raise ValueError(
                f"model.tie_output needs embeddings as wide as the model, not {self.embedding_width} of "
                f"{self.d_model}; set it to False"
            )
        if self.initializer == "t5" and self.tie_output and self.logits_scale == 1:
            raise ValueError("model.initializer t5 with model.tie_output needs a model.logits_scale of 1/sqrt(d_model)")


class DecoderCache(NamedTuple):
    """What decoding carries from token to token."""

    layers: StackCache
    next_position: Lengths
    """The position of the next token of each row."""
    memory_lengths: Int[Array, " rows"] | None = None
    """Vectors of each row of the memory that are no padding."""

    def take(self, rows: Int[Array, " rows"]) -> "DecoderCache":
        """The cache whose row i is this one's row `rows[i]`; the memory stays, shared by the rows of a beam."""
        return self._replace(layers=self.layers.take(rows), next_position=jnp.take(self.next_position, rows))


class Decoder(nnx.Module):
    """What encoder-decoder and decoder-only models have in common; they add `decoder_input` and `decoder`.

    `embedding` is held here, once, because inputs and the output share it.
    """

    decoder_input: TokenInput
    decoder: Stack

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        config.check()
        self.embedding = config.make_embedding(config.vocab_size, rngs=rngs)
        output = partial(Output, config.d_model, config.vocab_size, vocab_multiple=config.vocab_multiple, rngs=rngs)
        self.output = None if config.tie_output else output(dtype=config.dtype, initializer=config.init)
        rows = self.embedding.table.shape[0]
        self.output_bias = nnx.Param(jnp.zeros(rows), axes=("vocab",)) if config.output_bias else None
        self.logits_scale, self.logits_soft_cap = config.logits_scale, config.logits_soft_cap

    def logits(self, x: Float[Array, "batch length d_model"]) -> Float[Array, "batch length rows"]:
        """Float32 logits of the next token; `rows` is the padded vocabulary."""
        return self.make_logits()(x)

    def make_logits(self) -> Logits:
        """The function `logits`, to be made once where it is called often."""
        bias = None if self.output_bias is None else self.output_bias[...]
        scale, soft_cap = self.logits_scale, self.logits_soft_cap
        return make_logits(self.output or self.embedding, scale=scale, soft_cap=soft_cap, bias=bias)

    def extend(self, tokens: Tokens, cache: DecoderCache) -> tuple[Float[Array, "batch length rows"], DecoderCache]:
        """Appends `length` tokens to every row; returns the logits of the token that follows each of them."""
        positions = cache.next_position[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        x, cache = self._extend(tokens, positions, cache)
        return self.logits(x), cache._replace(next_position=cache.next_position + tokens.shape[1])

    def _extend(self, tokens: Tokens, positions: Tokens, cache: DecoderCache) -> tuple[Array, DecoderCache]:
        x, layers, _ = self._decode(tokens, None, cache.memory_lengths, positions=positions, cache=cache.layers)
        return x, cache._replace(layers=layers)

    def _decode(
        self,
        tokens: Tokens,
        memory: Float[Array, "rows memory memory_dim"] | None = None,
        memory_lengths: Int[Array, " rows"] | None = None,
        *,
        segments: Tokens | None = None,
        positions: PositionIds | None = None,
        key: PRNGKeyArray | None = None,
        **arguments: Any,
    ) -> tuple[Any, Any, Any]:
        """The output of the decoder's stack, its cache and intermediates."""
        input_key, stack_key = (None, None) if key is None else jax.random.split(key)
        x, *_ = self.decoder_input(tokens, self.embedding, positions=positions, key=input_key)
        masks = {
            "mask": AttentionMask(causal=True, query_segments=segments, key_segments=segments),
            "memory_mask": AttentionMask(key_lengths=memory_lengths),
        }
        return self.decoder(x, memory, **masks, positions=positions, key=stack_key, **arguments)
