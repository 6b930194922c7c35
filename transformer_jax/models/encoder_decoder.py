"""The encoder-decoder Transformer of "Attention Is All You Need" (Vaswani et al. 2017)."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transformer_jax.nn.cache import KeyValueCache
from transformer_jax.nn.embedding import Embedding, Output
from transformer_jax.nn.layer import LayerCache, LayerConfig
from transformer_jax.nn.linear import dropout
from transformer_jax.nn.mask import AttentionMask
from transformer_jax.nn.named import choose
from transformer_jax.nn.positions import POSITIONS
from transformer_jax.nn.stack import Intermediates, Stack
from transformer_jax.parallel.axes import constrain

Tokens = Int[Array, "batch length"]
Lengths = Int[Array, " batch"]


@dataclass(frozen=True)
class EncoderDecoderConfig(LayerConfig):
    """The paper's base model (table 3); `big()` is its big one."""

    num_layers: int = 6
    """Layers of the encoder, and of the decoder unless num_decoder_layers says otherwise."""
    num_decoder_layers: int | None = None
    """Layers of the decoder; None: as many as the encoder has."""
    vocab_size: int = 0
    """Tokens of the target (and, where shared, the source) vocabulary; 0: filled in from the tokenizer."""
    source_vocab_size: int = 0
    """Tokens of the source vocabulary; 0: filled in from the tokenizer."""
    share_embeddings: bool = True
    """One matrix embeds source and target; needs one vocabulary."""
    tie_output: bool = True
    """The target embedding is the output projection as well."""
    embedding_scale: bool = True
    """Embeddings are multiplied by sqrt(d_model)."""
    vocab_multiple: int = 8
    """Embedding tables have a multiple of this many rows; those without a token are masked."""
    positions: str = "sinusoidal"
    """sinusoidal or learned."""
    max_length: int = 1024
    """Positions that a learned table has."""
    final_norm: bool = False
    """A norm behind each stack; with norm_placement pre it belongs there."""
    remat: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    unroll: bool = False
    """Compile every layer on its own instead of a loop over layers."""

    @property
    def decoder_layers(self) -> int:
        """Layers of the decoder."""
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers

    def build(self, seed: int) -> "EncoderDecoder":
        """The model with fresh parameters, the same for the same seed."""
        return EncoderDecoder(self, rngs=nnx.Rngs(params=seed))

    def num_parameters(self) -> int:
        """Parameters of the model, by a closed formula; rows that only pad the vocabulary are not counted."""
        d, ff = self.d_model, self.d_ff
        norm = d * (2 if self.norm == "layer_norm" else 1)
        attention = 4 * d * d + (4 * d if self.attention_bias else 0)
        inner = 2 if self.gated else 1
        feed_forward = (inner + 1) * d * ff + ((inner * ff + d) if self.feed_forward_bias else 0)
        encoder = self.num_layers * (attention + feed_forward + 2 * norm)
        decoder = self.decoder_layers * (2 * attention + feed_forward + 3 * norm)
        tables = self.vocab_size * (1 if self.tie_output else 2)
        tables += 0 if self.share_embeddings else self.source_vocab_size
        tables += self.max_length if self.positions == "learned" else 0
        return tables * d + encoder + decoder + (2 * norm if self.final_norm else 0)


def base(**changes: Any) -> EncoderDecoderConfig:
    """The paper's base model, with any field changed: 63.0 M parameters at its 37,000 tokens."""
    return replace(EncoderDecoderConfig(), **changes)


def big(**changes: Any) -> EncoderDecoderConfig:
    """The paper's big model (table 3), with any field changed; dropout 0.3, as for English-German."""
    return replace(EncoderDecoderConfig(d_model=1024, d_ff=4096, num_heads=16, dropout=0.3), **changes)


class DecoderCache(NamedTuple):
    """Everything that decoding carries from token to token."""

    layers: LayerCache
    """Stacked along a leading `layers` axis."""
    memory_lengths: Lengths
    """Real positions of each row of the memory."""
    next_position: Int[Array, ""]
    """The position of the next token."""

    def take(self, rows: Int[Array, " rows"]) -> "DecoderCache":
        """The cache whose row i is this one's row `rows[i]`; the memory stays, shared by the rows of a beam."""
        own = self.layers.own
        key, value, positions = (jnp.take(array, rows, axis=1) for array in (own.key, own.value, own.positions))
        return self._replace(layers=self.layers._replace(own=KeyValueCache(key, value, positions, own.length)))


class EncoderDecoder(nnx.Module):
    """Reads a source sequence, writes a target sequence (Vaswani et al. 2017, figure 1).

    `embedding` is held here, once, because encoder, decoder and output share it.
    Raises ValueError for sizes that do not fit and unknown names.
    """

    def __init__(self, config: EncoderDecoderConfig, *, rngs: nnx.Rngs):
        _check(config)
        kwargs: dict[str, Any] = {"vocab_multiple": config.vocab_multiple, "dtype": config.dtype, "rngs": rngs}
        embedding = {"scale": config.embedding_scale, **kwargs}
        self.embedding = Embedding(config.vocab_size, config.d_model, **embedding)
        self.source_embedding = (
            None if config.share_embeddings else Embedding(config.source_vocab_size, config.d_model, **embedding)
        )
        self.positions = choose("positions", config.positions, POSITIONS)(config.max_length, config.d_model, rngs=rngs)
        stack: dict[str, Any] = {"final_norm": config.final_norm, "remat": config.remat, "unroll": config.unroll}
        self.encoder = Stack(config, config.num_layers, **stack, rngs=rngs)
        self.decoder = Stack(config, config.decoder_layers, cross_attention=True, **stack, rngs=rngs)
        self.output = None if config.tie_output else Output(config.d_model, config.vocab_size, **kwargs)
        self.dropout = config.dropout

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
        embed_key, stack_key = (None, None) if key is None else jax.random.split(key)
        x = self._embed(self.source_embedding or self.embedding, source, embed_key)
        return self.encoder(
            x, mask=AttentionMask(key_lengths=source_lengths), key=stack_key, intermediates=intermediates
        )

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
        embed_key, stack_key = (None, None) if key is None else jax.random.split(key)
        y = self.decoder(
            self._embed(self.embedding, target, embed_key),
            memory,
            mask=AttentionMask(causal=True),
            memory_mask=AttentionMask(key_lengths=memory_lengths),
            key=stack_key,
            intermediates=intermediates,
        )
        if not intermediates:
            return self._logits(y)
        inside: Intermediates
        y, inside = y
        return self._logits(y), inside

    def start_cache(
        self, memory: Float[Array, "rows memory d_model"], memory_lengths: Lengths, capacity: int
    ) -> DecoderCache:
        """A cache for `capacity` target tokens of every row, with the cross-attention's keys and values."""
        layers = self.decoder.start_cache(memory.shape[0], capacity, memory)
        return DecoderCache(layers, memory_lengths, jnp.zeros((), jnp.int32))

    def extend(self, tokens: Tokens, cache: DecoderCache) -> tuple[Float[Array, "batch length rows"], DecoderCache]:
        """Appends `length` tokens to every row; returns the logits of the token that follows each of them."""
        positions = jnp.broadcast_to(cache.next_position + jnp.arange(tokens.shape[1]), tokens.shape)
        x = self._embed(self.embedding, tokens, None, positions)
        memory_mask = AttentionMask(key_lengths=cache.memory_lengths)
        x, layers = self.decoder.extend(x, cache.layers, positions=positions, memory_mask=memory_mask)
        return self._logits(x), DecoderCache(layers, cache.memory_lengths, cache.next_position + tokens.shape[1])

    def _embed(
        self, embedding: Embedding, tokens: Tokens, key: PRNGKeyArray | None, positions: Tokens | None = None
    ) -> Float[Array, "batch length d_model"]:
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        vectors = embedding(tokens)
        x = vectors + self.positions(positions).astype(vectors.dtype)
        return dropout(constrain(x, ("batch", "length", "embed")), self.dropout, key)

    def _logits(self, x: Float[Array, "batch length d_model"]) -> Float[Array, "batch length rows"]:
        return (self.output or self.embedding).logits(x)


def _check(config: EncoderDecoderConfig) -> None:
    """Raises ValueError for a configuration that cannot be built."""
    for name in ("d_model", "num_heads", "d_ff", "num_layers", "decoder_layers", "vocab_size", "vocab_multiple"):
        if getattr(config, name) < 1:
            raise ValueError(f"model.{name} must be positive, not {getattr(config, name)}")
    for name in ("dropout", "attention_dropout"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"model.{name} is a probability below 1, not {getattr(config, name)}")
    if not config.norm_epsilon >= 0:
        raise ValueError(f"model.norm_epsilon must not be negative, not {config.norm_epsilon}")
    if config.d_model > 2**20 or config.d_ff > 2**22:
        raise ValueError(f"model.d_model {config.d_model} and d_ff {config.d_ff} are more than any machine holds")
    if config.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"model.dtype is float32 or bfloat16, not {config.dtype!r}")
    if not config.share_embeddings and config.source_vocab_size < 1:
        raise ValueError("model.source_vocab_size must be positive when embeddings are not shared")
