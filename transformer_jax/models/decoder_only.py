"""Decoder-only models: GPT-2 (Radford et al. 2019) and, by its fields, Llama (Touvron et al. 2023) and their kin."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transformer_jax.models.config import TokenModel, TransformerConfig, changed, check_tied
from transformer_jax.nn.inputs import Lengths, Tokens
from transformer_jax.nn.mask import EMPTY, AttentionMask
from transformer_jax.nn.positions import Learned, Rotary
from transformer_jax.nn.stack import Stack, StackCache


@dataclass(frozen=True)
class DecoderOnlyConfig(TransformerConfig):
    """A model of the next token."""

    def build(self, seed: int) -> "DecoderOnly":
        """The model with fresh parameters, the same for the same seed."""
        return DecoderOnly(self, rngs=nnx.Rngs(params=seed))

    def check(self) -> None:
        """Raises ValueError for a configuration that cannot be built."""
        super().check()
        check_tied(self)


def gpt2(**changes: Any) -> DecoderOnlyConfig:
    """GPT-2 small (Radford et al. 2019, section 2.3), with any field changed: 124.4 M parameters at 50,257 tokens.

    `GPT2_SIZES` has the others.
    """
    small = DecoderOnlyConfig(
        d_model=768,
        num_heads=12,
        d_ff=3072,
        num_layers=12,
        dropout=0.1,
        attention_dropout=0.1,
        activation="gelu_tanh",
        norm_placement="pre",
        norm_epsilon=1e-5,
        attention_bias=True,
        embedding_scale=False,
        positions=Learned(),
        max_length=1024,
        final_norm=True,
    )
    return changed(small, changes)


GPT2_SIZES = {
    name: {"num_layers": layers, "d_model": width, "num_heads": heads, "d_ff": 4 * width}
    for name, layers, width, heads in (
        ("small", 12, 768, 12),
        ("medium", 24, 1024, 16),
        ("large", 36, 1280, 20),
        ("xl", 48, 1600, 25),
    )
}
"""Radford et al. 2019, table 2: `gpt2(**GPT2_SIZES["xl"])`."""


def llama(**changes: Any) -> DecoderOnlyConfig:
    """The form of Llama (Touvron et al. 2023, section 2.2) in the sizes of its 7 B model, with any field changed."""
    seven = DecoderOnlyConfig(
        d_model=4096,
        num_heads=32,
        d_ff=11_008,
        num_layers=32,
        dropout=0.0,
        activation="silu",
        gated=True,
        norm="rms_norm",
        norm_placement="pre",
        norm_epsilon=1e-5,
        feed_forward_bias=False,
        embedding_scale=False,
        tie_output=False,
        positions=Rotary(),
        max_length=2048,
        final_norm=True,
    )
    return changed(seven, changes)


class DecoderOnlyCache(NamedTuple):
    """Everything that generation carries from token to token."""

    layers: StackCache
    next_position: Lengths
    """The position of the next token of each row."""

    def take(self, rows: Int[Array, " rows"]) -> "DecoderOnlyCache":
        """The cache whose row i is this one's row `rows[i]`."""
        return DecoderOnlyCache(self.layers.take(rows), jnp.take(self.next_position, rows))


class DecoderOnly(TokenModel):
    """Predicts the token that follows. Raises ValueError for sizes that do not fit and unknown names."""

    def __init__(self, config: DecoderOnlyConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.decoder_input = config.make_token_input(rngs=rngs)
        self.decoder = Stack(config, config.num_layers, causal=True, **config.stack(), rngs=rngs)

    def __call__(
        self,
        tokens: Tokens,
        *,
        segments: Tokens | None = None,
        positions: Tokens | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch length rows"]:
        """Float32 logits of the token that follows each token; `key` turns dropout on.

        Tokens of different `segments` (packed documents) do not see each other; `positions` default to 0, 1, 2, ...
        Right padding needs neither: nothing that counts sees it.
        """
        return self.logits(self.vectors(tokens, segments=segments, positions=positions, key=key))

    def vectors(
        self,
        tokens: Tokens,
        *,
        segments: Tokens | None = None,
        positions: Tokens | None = None,
        key: PRNGKeyArray | None = None,
        intermediates: bool = False,
    ) -> Any:
        """Vectors `[batch, length, d_model]` in front of the output, with `intermediates` also an `Intermediates`."""
        mask = AttentionMask(causal=True, query_segments=segments, key_segments=segments)
        x, _, inside = self._decode(tokens, positions, mask=mask, key=key, intermediates=intermediates)
        return (x, inside) if intermediates else x

    def start_cache(self, batch: int, capacity: int) -> DecoderOnlyCache:
        """A cache for `capacity` tokens of each of `batch` rows."""
        return DecoderOnlyCache(self.decoder.start_cache(batch, capacity), jnp.zeros(batch, jnp.int32))

    def prefill(
        self, tokens: Tokens, lengths: Lengths, cache: DecoderOnlyCache
    ) -> tuple[Float[Array, "batch rows"], DecoderOnlyCache]:
        """Puts prompts of different length, padded on the LEFT, into a fresh cache; the logits of what follows them."""
        positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] - (tokens.shape[1] - lengths)[:, None]
        x, cache = self._extend(tokens, jnp.where(positions < 0, EMPTY, positions), cache)
        return self.logits(x[:, -1:])[:, 0], cache._replace(next_position=lengths)

    def extend(
        self, tokens: Tokens, cache: DecoderOnlyCache
    ) -> tuple[Float[Array, "batch length rows"], DecoderOnlyCache]:
        """Appends `length` tokens to every row; returns the logits of the token that follows each of them."""
        positions = cache.next_position[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        x, cache = self._extend(tokens, positions, cache)
        return self.logits(x), cache._replace(next_position=cache.next_position + tokens.shape[1])

    def _extend(
        self, tokens: Tokens, positions: Tokens, cache: DecoderOnlyCache
    ) -> tuple[Float[Array, "batch length d_model"], DecoderOnlyCache]:
        x, layers, _ = self._decode(tokens, positions, mask=AttentionMask(causal=True), cache=cache.layers)
        return x, cache._replace(layers=layers)

    def _decode(
        self, tokens: Tokens, positions: Tokens | None, *, key: PRNGKeyArray | None = None, **described: Any
    ) -> tuple[Any, Any, Any]:
        input_key, stack_key = (None, None) if key is None else jax.random.split(key)
        x, _ = self.decoder_input(tokens, self.embedding, positions=positions, key=input_key)
        return self.decoder(x, positions=positions, key=stack_key, **described)
