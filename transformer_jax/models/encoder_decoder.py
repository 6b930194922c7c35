"""The encoder-decoder Transformer of "Attention Is All You Need" (Vaswani et al. 2017)."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transformer_jax.models.config import TokenModel, TransformerConfig, changed, check_tied
from transformer_jax.nn.inputs import Lengths, Tokens
from transformer_jax.nn.mask import AttentionMask
from transformer_jax.nn.stack import Stack, StackCache


@dataclass(frozen=True)
class EncoderDecoderConfig(TransformerConfig):
    """The paper's base model (table 3); `big()` is its big one. `num_layers` are those of the encoder."""

    num_decoder_layers: int | None = None
    """Layers of the decoder; None: as many as the encoder has."""
    source_vocab_size: int = 0
    """Tokens of the source vocabulary; 0: filled in from the tokenizer."""
    share_embeddings: bool = True
    """One matrix embeds source and target; needs one vocabulary."""

    @property
    def decoder_layers(self) -> int:
        """Layers of the decoder."""
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers

    def build(self, seed: int) -> "EncoderDecoder":
        """The model with fresh parameters, the same for the same seed."""
        return EncoderDecoder(self, rngs=nnx.Rngs(params=seed))

    def check(self) -> None:
        """Raises ValueError for a configuration that cannot be built."""
        super().check()
        if self.decoder_layers < 1:
            raise ValueError(f"model.num_decoder_layers must be positive, not {self.decoder_layers}")
        if not self.share_embeddings and self.source_vocab_size < 1:
            raise ValueError("model.source_vocab_size must be positive when embeddings are not shared")
        check_tied(self)


def base(**changes: Any) -> EncoderDecoderConfig:
    """The paper's base model, with any field changed: 63.0 M parameters at its 37,000 tokens."""
    return changed(EncoderDecoderConfig(), changes)


def big(**changes: Any) -> EncoderDecoderConfig:
    """The paper's big model (table 3), with any field changed; dropout 0.3, as for English-German."""
    return changed(EncoderDecoderConfig(d_model=1024, d_ff=4096, num_heads=16, dropout=0.3), changes)


class DecoderCache(NamedTuple):
    """Everything that decoding carries from token to token."""

    layers: StackCache
    memory_lengths: Lengths
    """Real positions of each row of the memory."""
    next_position: Int[Array, ""]
    """The position of the next token."""

    def take(self, rows: Int[Array, " rows"]) -> "DecoderCache":
        """The cache whose row i is this one's row `rows[i]`; the memory stays, shared by the rows of a beam."""
        return self._replace(layers=self.layers.take(rows))


class EncoderDecoder(TokenModel):
    """Reads a source sequence, writes a target sequence (Vaswani et al. 2017, figure 1).

    Raises ValueError for sizes that do not fit and unknown names.
    """

    def __init__(self, config: EncoderDecoderConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        make = partial(config.make_embedding, rngs=rngs)
        self.source_embedding = None if config.share_embeddings else make(config.source_vocab_size)
        self.encoder_input = config.make_token_input(rngs=rngs)
        self.encoder = Stack(config, config.num_layers, **config.stack(), rngs=rngs)
        self.decoder_input = config.make_token_input(rngs=rngs)
        decoder: dict[str, Any] = {"causal": True, "cross_attention": True, **config.stack()}
        self.decoder = Stack(config, config.decoder_layers, **decoder, rngs=rngs)

    def __call__(
        self,
        source: Tokens,
        target: Int[Array, "batch target"],
        *,
        source_lengths: Lengths | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch target rows"]:
        """Float32 logits of the token that follows each target token; `key` turns dropout on.

        Sequences are padded on the right; what stands there changes nothing. `target` begins with the start token.
        """
        encoder_key, decoder_key = (None, None) if key is None else jax.random.split(key)
        memory = self.encode(source, source_lengths=source_lengths, key=encoder_key)
        return self.decode(target, memory, memory_lengths=source_lengths, key=decoder_key)

    def encode(
        self,
        source: Tokens,
        *,
        source_lengths: Lengths | None = None,
        key: PRNGKeyArray | None = None,
        intermediates: bool = False,
    ) -> Any:
        """The memory `[batch, length, d_model]`, with `intermediates` also an `Intermediates`."""
        input_key, stack_key = (None, None) if key is None else jax.random.split(key)
        embedding = self.source_embedding or self.embedding
        x, lengths = self.encoder_input(source, embedding, lengths=source_lengths, key=input_key)
        mask = AttentionMask(key_lengths=lengths)
        memory, _, inside = self.encoder(x, mask=mask, key=stack_key, intermediates=intermediates)
        return (memory, inside) if intermediates else memory

    def decode(
        self,
        target: Tokens,
        memory: Float[Array, "batch memory d_model"],
        *,
        memory_lengths: Lengths | None = None,
        key: PRNGKeyArray | None = None,
        intermediates: bool = False,
    ) -> Any:
        """Logits `[batch, length, rows]` of whole target sequences, with `intermediates` also an `Intermediates`."""
        y, _, inside = self._decode(target, memory, memory_lengths, key=key, intermediates=intermediates)
        return (self.logits(y), inside) if intermediates else self.logits(y)

    def start_cache(
        self, memory: Float[Array, "rows memory d_model"], memory_lengths: Lengths, capacity: int
    ) -> DecoderCache:
        """A cache for `capacity` target tokens of every row, with the cross-attention's keys and values."""
        layers = self.decoder.start_cache(memory.shape[0], capacity, memory)
        return DecoderCache(layers, memory_lengths, jnp.zeros((), jnp.int32))

    def extend(self, tokens: Tokens, cache: DecoderCache) -> tuple[Float[Array, "batch length rows"], DecoderCache]:
        """Appends `length` tokens to every row; returns the logits of the token that follows each of them."""
        positions = jnp.broadcast_to(cache.next_position + jnp.arange(tokens.shape[1]), tokens.shape)
        y, layers, _ = self._decode(tokens, None, cache.memory_lengths, positions=positions, cache=cache.layers)
        return self.logits(y), DecoderCache(layers, cache.memory_lengths, cache.next_position + tokens.shape[1])

    def _decode(
        self,
        tokens: Tokens,
        memory: Float[Array, "rows memory d_model"] | None,
        memory_lengths: Int[Array, " rows"] | None,
        *,
        positions: Tokens | None = None,
        key: PRNGKeyArray | None = None,
        **described: Any,
    ) -> tuple[Any, Any, Any]:
        input_key, stack_key = (None, None) if key is None else jax.random.split(key)
        x, _ = self.decoder_input(tokens, self.embedding, positions=positions, key=input_key)
        masks = {"mask": AttentionMask(causal=True), "memory_mask": AttentionMask(key_lengths=memory_lengths)}
        return self.decoder(x, memory, **masks, positions=positions, key=stack_key, **described)
