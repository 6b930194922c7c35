"""Decoder-only models: GPT-2 (Radford et al. 2019) and, by its fields, Llama (Touvron et al. 2023) and their kin."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from transformer_jax.models.config import Encoded, changed
from transformer_jax.models.decoder import Decoder, DecoderCache, DecoderConfig
from transformer_jax.nn.cache import Rows
from transformer_jax.nn.inputs import Lengths, TokenIds, Tokens
from transformer_jax.nn.mask import EMPTY
from transformer_jax.nn.positions import Learned, Rotary
from transformer_jax.nn.stack import Stack


@dataclass(frozen=True)
class DecoderOnlyConfig(DecoderConfig):
    """A model of the next token."""

    def check(self) -> None:
        """Raises ValueError for a configuration that cannot be built."""
        super().check()
        if not isinstance(self.input, TokenIds):
            raise ValueError("model.input is of models with an encoder; this one reads tokens")

    def build(self, seed: int | PRNGKeyArray) -> "DecoderOnly":
        """The model with fresh parameters, the same for the same seed or key."""
        return DecoderOnly(self, rngs=nnx.Rngs(params=seed))


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


class DecoderOnly(Decoder):
    """Predicts the token that follows. Raises ValueError for sizes that do not fit and unknown names."""

    def __init__(self, config: DecoderOnlyConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.decoder_input = config.make_input(config.input, rngs=rngs)
        self.decoder = Stack(config, causal=True, layer=config.layer, rngs=rngs)

    def __call__(self, tokens: Tokens, **inputs: Any) -> Float[Array, "batch length rows"]:
        """Float32 logits of the token that follows each token; `inputs` are those of `decode`."""
        return self.logits(self.decode(tokens, **inputs).vectors)

    def decode(
        self,
        tokens: Tokens,
        *,
        segments: Tokens | None = None,
        positions: Tokens | None = None,
        key: PRNGKeyArray | None = None,
        intermediates: bool = False,
    ) -> Encoded:
        """Vectors `[batch, length, d_model]`, from which `logits` predicts the next tokens; `key` turns dropout on.

        Tokens of different `segments` (packed documents) do not see each other; `positions` default to 0, 1, 2, ...
        Right padding needs neither: nothing that counts sees it.
        """
        arguments = {"segments": segments, "positions": positions, "key": key}
        vectors, _, inside = self._decode(tokens, **arguments, intermediates=intermediates)
        return Encoded(vectors, intermediates=inside)

    def start_cache(self, batch: Rows, capacity: int) -> DecoderCache:
        """A cache for `capacity` tokens of each of `batch` rows."""
        return DecoderCache(self.decoder.start_cache(batch, capacity), jnp.zeros(batch, jnp.int32))

    def prefill(
        self, tokens: Tokens, lengths: Lengths, cache: DecoderCache
    ) -> tuple[Float[Array, "batch rows"], DecoderCache]:
        """Puts prompts of different length, padded on the LEFT, into a fresh cache; the logits of what follows them."""
        positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] - (tokens.shape[1] - lengths)[:, None]
        x, cache = self._extend(tokens, jnp.where(positions < 0, EMPTY, positions), cache)
        return self.logits(x[:, -1:])[:, 0], cache._replace(next_position=lengths)
