"""The encoder-decoder Transformer of "Attention Is All You Need" (Vaswani et al. 2017)."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transformer_jax.models.config import Encoded, changed
from transformer_jax.models.decoder import Decoder, DecoderCache, DecoderConfig
from transformer_jax.nn.config import LayerConfig
from transformer_jax.nn.embedding import Output, make_logits
from transformer_jax.nn.inputs import Lengths, Pixels, TokenIds, Tokens
from transformer_jax.nn.log_mel import Features
from transformer_jax.nn.mask import AttentionMask
from transformer_jax.nn.stack import Stack


@dataclass(frozen=True)
class EncoderDecoderConfig(DecoderConfig):
    """The paper's base model (table 3); `big()` is its big one. `num_layers` are those of the encoder."""

    encoder: LayerConfig | None = None
    """The encoder's layers, where they are others than the decoder's; None: the same."""
    num_decoder_layers: Annotated[int, Ge(1), Le(10_000)] | None = None
    """Layers of the decoder; None: num_layers."""
    source_vocab_size: int = 0
    """Tokens of the source vocabulary; 0: filled in from the tokenizer."""
    share_embeddings: bool = True
    """One matrix embeds source and target; needs one vocabulary."""
    ctc: bool = False
    """A head that predicts a token, or none, for every vector of the encoder (Graves et al. 2006)."""

    @property
    def encoder_layers(self) -> LayerConfig:
        """The configuration of the encoder."""
        return self if self.encoder is None else self.encoder

    @property
    def decoder_layers(self) -> int:
        """Layers of the decoder."""
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers

    @property
    def reads_source(self) -> bool:
        """Whether the encoder reads tokens."""
        return isinstance(self.input, TokenIds)

    def build(self, seed: int | PRNGKeyArray) -> "EncoderDecoder":
        """The model with fresh parameters, the same for the same seed or key."""
        return EncoderDecoder(self, rngs=nnx.Rngs(params=seed))

    def check(self) -> None:
        """Raises ValueError for a configuration that cannot be built."""
        super().check()
        if self.decoder_layers < 1:
            raise ValueError(f"model.num_decoder_layers must be positive, not {self.decoder_layers}")
        if not self.reads_source:
            return
        if not self.share_embeddings and self.source_vocab_size < 1:
            raise ValueError("model.source_vocab_size must be positive when embeddings are not shared")
        if self.share_embeddings and self.embedding_size is None and self.encoder_layers.d_model != self.d_model:
            raise ValueError(
                f"model.share_embeddings needs one width, not {self.encoder_layers.d_model} of the encoder and "
                f"{self.d_model}; set it to False, or model.embedding_size"
            )

    def reach(self) -> int | None:
        """The longest text that the positions of both sides have room for; None: any."""
        encoder = self.encoder_layers
        if not self.reads_source:
            return super().reach()
        return min(filter(None, (super().reach(), encoder.positions.reach(encoder.sizes()))), default=None)


def base(**changes: Any) -> EncoderDecoderConfig:
    """The paper's base model, with any field changed: 63.0 M parameters at its 37,000 tokens."""
    return changed(EncoderDecoderConfig(), changes)


def big(**changes: Any) -> EncoderDecoderConfig:
    """The paper's big model (table 3), with any field changed; dropout 0.3, as for English-German."""
    return changed(EncoderDecoderConfig(d_model=1024, d_ff=4096, num_heads=16, dropout=0.3), changes)


class EncoderDecoder(Decoder):
    """Reads a source sequence, writes a target sequence (Vaswani et al. 2017, figure 1).

    Raises ValueError for sizes that do not fit and unknown names.
    """

    def __init__(self, config: EncoderDecoderConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        encoder, decoder = config.encoder_layers, replace(config, num_layers=config.decoder_layers)
        make = partial(config.make_embedding, rngs=rngs)
        separate = config.reads_source and not config.share_embeddings
        self.source_embedding = make(config.source_vocab_size, encoder) if separate else None
        self.encoder_input = config.make_input(config.input, encoder, rngs=rngs)
        self.encoder = Stack(encoder, layer=config.layer, rngs=rngs)
        self.decoder_input = config.make_input(TokenIds(), rngs=rngs)
        reads: dict[str, Any] = {"causal": True, "cross_attention": True, "memory_dim": encoder.d_model}
        self.decoder = Stack(decoder, layer=config.layer, **reads, rngs=rngs)
        ctc = {"vocab_multiple": config.vocab_multiple, "dtype": config.dtype, "initializer": config.init, "rngs": rngs}
        self.ctc_output = Output(encoder.d_model, config.vocab_size + 1, **ctc) if config.ctc else None

    def __call__(
        self,
        source: Tokens | Pixels | Features,
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
        return self.predict(target, memory, key=decoder_key)

    def encode(
        self,
        source: Tokens | Pixels | Features,
        *,
        source_lengths: Lengths | None = None,
        key: PRNGKeyArray | None = None,
        intermediates: bool = False,
    ) -> Encoded:
        """The memory that the decoder attends to; `source` and its lengths are what `model.input` reads."""
        input_key, stack_key = (None, None) if key is None else jax.random.split(key)
        embedding = self.source_embedding or self.embedding
        given = {} if source_lengths is None else {"lengths": source_lengths}
        x, lengths, positions = self.encoder_input(source, embedding, **given, key=input_key)
        settings = {"mask": AttentionMask(key_lengths=lengths), "key": stack_key, "intermediates": intermediates}
        # Those of tokens are the encoder's own matter, and an encoder of one's own need not take any.
        placed = {} if positions is None else {"positions": positions}
        vectors, _, inside = self.encoder(x, **placed, **settings)
        return Encoded(vectors, lengths, inside)

    def ctc_logits(self, memory: Encoded) -> Float[Array, "batch length rows"]:
        """With `model.ctc`, float32 logits of the token of every vector of the encoder, or of none: the last of all."""
        if self.ctc_output is None:
            raise ValueError("only a model with model.ctc has a CTC head")
        return make_logits(self.ctc_output)(memory.vectors)

    def decode(
        self, target: Tokens, memory: Encoded, *, key: PRNGKeyArray | None = None, intermediates: bool = False
    ) -> Encoded:
        """Vectors `[batch, length, d_model]` of whole target sequences, from which `logits` predicts what follows."""
        vectors, _, inside = self._decode(target, memory.vectors, memory.lengths, key=key, intermediates=intermediates)
        return Encoded(vectors, intermediates=inside)

    def predict(
        self, target: Tokens, memory: Encoded, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "batch target rows"]:
        """The logits of a call, given the memory."""
        return self.logits(self.decode(target, memory, key=key).vectors)

    def start_cache(self, memory: Encoded, capacity: int) -> DecoderCache:
        """A cache for `capacity` target tokens of every row, with the cross-attention's keys and values."""
        rows = memory.vectors.shape[0]
        layers = self.decoder.start_cache(rows, capacity, memory.vectors)
        return DecoderCache(layers, jnp.zeros(rows, jnp.int32), memory.lengths)
