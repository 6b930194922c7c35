"""Encoder-only models: BERT (Devlin et al. 2019) and, by its fields, ModernBERT (Warner et al. 2024)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from transformer_jax.models.config import Encoded, TransformerConfig, changed
from transformer_jax.nn.attention import Attention
from transformer_jax.nn.embedding import Embedding, make_logits
from transformer_jax.nn.feed_forward import ACTIVATIONS, FeedForward
from transformer_jax.nn.inputs import Lengths, Patches, Pixels, TokenIds, Tokens
from transformer_jax.nn.linear import Linear, dropout
from transformer_jax.nn.log_mel import Features
from transformer_jax.nn.mask import AttentionMask
from transformer_jax.nn.named import choose
from transformer_jax.nn.positions import Learned, Rotary, Vectors
from transformer_jax.nn.stack import Stack

HEADS = ("language_model", "pretraining", "sequence", "tokens", "pooled", "none")
POOLED = ("sequence", "pretraining", "pooled")
"""The heads that see one vector for a text."""
POOLINGS = ("first", "mean", "first_and_mean", "attention", "distilled")
"""What is predicted from; of a text the first two, of a recording all but the last."""
POOLER_ACTIVATIONS = {"tanh": jnp.tanh, **ACTIVATIONS}


@dataclass(frozen=True)
class EncoderOnlyConfig(TransformerConfig):
    """A model that reads both ways."""

    token_types: int = 0
    """Kinds of tokens that are embedded as well, such as those of a pair's first and second text; 0: none."""
    head: str = "language_model"
    """language_model (the masked tokens), pretraining (also whether a text's second part follows from its first),
    sequence (one prediction a text), tokens (one a token), pooled (the vector that these see of a text) or none."""
    pooling: str = "first"
    """What predictions for a text see: its first token, as in BERT, or the mean of all; of a picture its class token
    (first), the mean of its patches, both side by side (first_and_mean, DINOv2), the class and the distillation token,
    each with a head of its own (distilled, DeiT), or what a learned query attends to (attention)."""
    pooler: bool = True
    """A linear map, an activation and maybe a norm of the pooled vector, as in BERT; False: the vector itself (ViT)."""
    pooler_activation: str = "tanh"
    """What follows the linear map of the pooled vector: tanh (BERT), relu (DistilBERT), gelu (ELECTRA), ..."""
    pooler_norm: bool = False
    """A norm behind that (ModernBERT)."""
    pooled_tokens: bool = False
    """With the head tokens: every token's vector goes through the pooler's map, activation and norm (ModernBERT)."""
    head_bias: bool = True
    """A bias in the linear map of the language model's head, and of the pooler."""
    num_outputs: int = 0
    """Predictions of the heads sequence and tokens; 0: filled in by the task."""
    head_dropout: float = 0.1
    """Dropout in front of these heads."""

    def build(self, seed: int | PRNGKeyArray) -> "EncoderOnly":
        """The model with fresh parameters, the same for the same seed or key."""
        return EncoderOnly(self, rngs=nnx.Rngs(params=seed))

    def check(self) -> None:
        """Raises ValueError for a configuration that cannot be built."""
        super().check()
        if self.head not in HEADS:
            raise ValueError(f"model.head is one of {', '.join(HEADS)}, not {self.head!r}")
        if not self.reads_text and self.head not in ("sequence", "pooled", "none"):
            raise ValueError(f"model.head for pictures and sound is sequence, pooled or none, not {self.head!r}")
        known = POOLINGS if isinstance(self.input, Patches) else POOLINGS[:2] if self.reads_text else POOLINGS[:-1]
        if self.pooling not in known:
            raise ValueError(f"model.pooling is {', '.join(known)}, not {self.pooling!r}")
        if self.pooling in ("first_and_mean", "distilled") and self.pooler:
            raise ValueError(f"model.pooling {self.pooling} needs model.pooler False")
        read, needed = self.input, {"mean": 0, "attention": 0, "distilled": 2}.get(self.pooling, 1)
        if isinstance(read, Patches) and self.head in POOLED and read.placed < needed:
            raise ValueError(f"model.pooling {self.pooling} needs model.input.class_token, of DeiT both tokens")
        choose("model.pooler_activation", self.pooler_activation, POOLER_ACTIVATIONS)
        if self.head in ("sequence", "tokens") and self.num_outputs < 1:
            raise ValueError(f"model.num_outputs must be positive with head {self.head}, not {self.num_outputs}")
        if not 0 <= self.head_dropout < 1:
            raise ValueError(f"model.head_dropout is a probability below 1, not {self.head_dropout}")

    @property
    def reads_text(self) -> bool:
        return isinstance(self.input, TokenIds)

    @classmethod
    def upgraded(cls, tree: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON of a configuration as version 0.1.0 wrote it, in today's fields; its output was always tied."""
        return {name: value for name, value in super().upgraded(tree).items() if name != "tie_output"}


def bert(**changes: Any) -> EncoderOnlyConfig:
    """BERT base (Devlin et al. 2019, section 3), with any field changed; `BERT_SIZES` has the others."""
    base = EncoderOnlyConfig(
        d_model=768,
        num_heads=12,
        d_ff=3072,
        num_layers=12,
        dropout=0.1,
        attention_dropout=0.1,
        activation="gelu",
        norm_epsilon=1e-12,
        attention_bias=True,
        embedding_scale=False,
        embedding_norm=True,
        positions=Learned(),
        max_length=512,
        token_types=2,
    )
    return changed(base, changes)


def _sizes(**sizes: tuple[int, int]) -> dict[str, dict[str, int]]:
    """Layers and widths by name, with heads of 64 dimensions and inner layers four times as wide."""
    return {
        name: {"num_layers": layers, "d_model": width, "num_heads": width // 64, "d_ff": 4 * width}
        for name, (layers, width) in sizes.items()
    }


BERT_SIZES = _sizes(tiny=(2, 128), mini=(4, 256), small=(4, 512), medium=(8, 512), base=(12, 768), large=(24, 1024))
"""Devlin et al. 2019, section 3, and Turc et al. 2019, table 1: `bert(**BERT_SIZES["tiny"])`."""


def modern_bert(**changes: Any) -> EncoderOnlyConfig:
    """ModernBERT base (Warner et al. 2024, section 2 and table 4), with any field changed."""
    base = EncoderOnlyConfig(
        d_model=768,
        num_heads=12,
        d_ff=1152,
        num_layers=22,
        dropout=0.0,
        activation="gelu",
        gated=True,
        norm_placement="pre",
        norm_epsilon=1e-5,
        norm_bias=False,
        feed_forward_bias=False,
        embedding_scale=False,
        embedding_norm=True,
        positions=Rotary(base=160_000.0),
        local_positions=Rotary(),
        pattern=("global", "local", "local"),
        window=64,
        first_attention_norm=False,
        max_length=8192,
        final_norm=True,
        head_bias=False,
        head_dropout=0.0,
    )
    return changed(base, changes)


def vit(**changes: Any) -> EncoderOnlyConfig:
    """ViT base (Dosovitskiy et al. 2021, section 3.1), with any field changed; `VIT_SIZES` has the others.

    Patches of 16 pixels; of 14 with `input=Patches(14)`.
    """
    base = EncoderOnlyConfig(
        d_model=768,
        num_heads=12,
        d_ff=3072,
        num_layers=12,
        dropout=0.0,
        activation="gelu",
        norm_placement="pre",
        attention_bias=True,
        embedding_scale=False,
        positions=Learned(),
        final_norm=True,
        initializer="vit",
        input=Patches(),
        head="sequence",
        pooler=False,
        head_dropout=0.0,
    )
    return changed(base, changes)


VIT_SIZES = _sizes(Ti=(12, 192), S=(12, 384), B=(12, 768), L=(24, 1024))
"""Touvron et al. 2021, "DeiT", table 1, and Dosovitskiy et al. 2021, table 1: `vit(**VIT_SIZES["S"])`."""


def mean_vector(x: Vectors, lengths: Lengths | None = None) -> Float[Array, "batch d_model"]:
    """The mean of the first `lengths` vectors of each row, by default of all, in float32."""
    lengths = jnp.full(x.shape[:1], x.shape[1]) if lengths is None else lengths
    real = (jnp.arange(x.shape[1])[None] < lengths[:, None])[:, :, None]
    return jnp.sum(x.astype(jnp.float32) * real, axis=1) / jnp.maximum(lengths, 1)[:, None]


class LanguageModelHead(nnx.Module):
    """Logits of the tokens themselves, for masked language modelling (Devlin et al. 2019, section 3.1).

    A linear map, the layers' activation, a norm, then the product with the tied embedding and a bias for each token.
    """

    def __init__(self, config: EncoderOnlyConfig, rows: int, *, rngs: nnx.Rngs):
        width = config.embedding_width
        self.transform = _head_map(config, width, rngs)
        self.activation = choose("activation", config.activation, ACTIVATIONS)
        self.norm = config.make_norm(width)
        self.bias = nnx.Param(jnp.zeros(rows), axes=("vocab",))

    def __call__(self, x: Vectors, embedding: Embedding) -> Float[Array, "batch length rows"]:
        x = self.norm(self.activation(self.transform(x)))
        return make_logits(embedding, bias=self.bias[...])(x)


class AttentionPooling(nnx.Module):
    """What one learned query attends to, and a feed-forward network (Zhai et al. 2022, "Scaling Vision Transformers").

    As in github.com/google-research/big_vision, where it is the MAP head.
    """

    def __init__(self, config: EncoderOnlyConfig, *, rngs: nnx.Rngs):
        d = config.d_model
        self.query = nnx.Param(config.init.table(rngs.params(), (1, d), "tokens", d), axes=("replicated", "embed"))
        self.attention = Attention(config, cross=True, rngs=rngs)
        self.norm, self.feed_forward = config.make_norm(d), FeedForward(config, rngs=rngs)

    def __call__(self, x: Vectors, lengths: Lengths | None = None) -> Float[Array, "batch d_model"]:
        query = jnp.broadcast_to(self.query[...].astype(x.dtype), (len(x), *self.query.shape))
        pooled, *_ = self.attention(query, x, mask=AttentionMask(key_lengths=lengths))
        return (pooled + self.feed_forward(self.norm(pooled)))[:, 0]


class Pooler(nnx.Module):
    """One vector for a sequence: tanh of a linear map of its first vector (Devlin et al. 2019), or of the mean.

    Without a `model.pooler`, the first vector or the mean itself.

    `pooling` is first, mean, or empty for the same of every vector by itself.
    """

    def __init__(self, config: EncoderOnlyConfig, pooling: str, *, rngs: nnx.Rngs):
        d = config.d_model
        self.transform = _head_map(config, d, rngs) if config.pooler else None
        self.activation = POOLER_ACTIVATIONS[config.pooler_activation]
        self.norm = config.make_norm(d) if config.pooler and config.pooler_norm else None
        self.attention = AttentionPooling(config, rngs=rngs) if pooling == "attention" else None
        self.pooling, self.first = pooling, config.input.first

    def __call__(self, encoded: Encoded) -> Float[Array, "batch *length d_model"]:
        x, lengths, _ = encoded
        if self.attention is not None:
            x = self.attention(x, lengths)
        elif "mean" in self.pooling:
            mean = mean_vector(x[:, self.first :], None if lengths is None else lengths - self.first)
            x = mean if self.pooling == "mean" else jnp.concatenate([x[:, 0], mean], axis=-1)
        elif self.pooling:
            x = x[:, :2] if self.pooling == "distilled" else x[:, 0]
        if self.transform is None:
            return x
        x = self.activation(self.transform(x))
        return x if self.norm is None else self.norm(x)


class EncoderOnly(nnx.Module):
    """Vectors of tokens (or of a picture's patches) that see each other, and the predictions of a head.

    Raises ValueError for sizes that do not fit and unknown names.
    """

    def __init__(self, config: EncoderOnlyConfig, *, rngs: nnx.Rngs):
        config.check()
        self.embedding: Any = config.make_embedding(config.vocab_size, rngs=rngs) if config.reads_text else None
        self.encoder_input = config.make_input(config.input, token_types=config.token_types, rngs=rngs)
        self.encoder = Stack(config, layer=config.layer, rngs=rngs)
        each = config.head == "tokens" and config.pooled_tokens
        pooling = "" if each else config.pooling
        self.pooler = Pooler(config, pooling, rngs=rngs) if each or config.head in POOLED else None
        self.head = _make_head(config, 0 if self.embedding is None else self.embedding.table.shape[0], rngs)
        distilled = config.head == "sequence" and config.pooling == "distilled"
        self.distillation_head = _outputs(config, config.num_outputs, rngs) if distilled else None
        self.next_sentence = _outputs(config, 2, rngs) if config.head == "pretraining" else None
        self.head_dropout = config.head_dropout

    def __call__(
        self, tokens: Tokens | Pixels | Features, *, key: PRNGKeyArray | None = None, **inputs: Any
    ) -> Float[Array, "batch *length outputs"]:
        """The head's float32 predictions: `[batch, outputs]` for `sequence`, otherwise for each token.

        `inputs` are those of `encode`; `key` turns dropout on.
        """
        body_key, head_key = (None, None) if key is None else jax.random.split(key)
        return self.predict(self.encode(tokens, key=body_key, **inputs), key=head_key)

    def encode(
        self,
        tokens: Tokens | Pixels | Features,
        *,
        lengths: Lengths | None = None,
        segments: Tokens | None = None,
        positions: Tokens | None = None,
        token_types: Tokens | None = None,
        key: PRNGKeyArray | None = None,
        intermediates: bool = False,
    ) -> Encoded:
        """Vectors `[batch, length, d_model]`, from which `predict` predicts.

        Sequences are padded on the right to `lengths`, or packed: tokens of different `segments` do not see each other.
        A model of pictures takes their pixels, and nothing else; one of sound takes features and `lengths` in frames.
        """
        input_key, stack_key = (None, None) if key is None else jax.random.split(key)
        given = {"lengths": lengths, "positions": positions, "token_types": token_types}
        given = {name: array for name, array in given.items() if array is not None}
        x, lengths, positions = self.encoder_input(tokens, self.embedding, **given, key=input_key)
        mask = AttentionMask(key_lengths=lengths, query_segments=segments, key_segments=segments)
        x, _, inside = self.encoder(x, mask=mask, positions=positions, key=stack_key, intermediates=intermediates)
        return Encoded(x, lengths, inside)

    def predict(self, encoded: Encoded, *, key: PRNGKeyArray | None = None) -> Float[Array, "batch *length outputs"]:
        """The predictions of the head; without one, the vectors themselves, pooled or not."""
        x: Any = encoded.vectors
        if isinstance(self.head, LanguageModelHead):
            return self.head(x, self.embedding)
        x = x if self.pooler is None else self.pooler(encoded)
        if self.head is None:
            return x
        x = dropout(x, self.head_dropout, key)
        if self.distillation_head is not None:  # the mean of both heads
            return (self.head(x[:, 0]) + self.distillation_head(x[:, 1])).astype(jnp.float32) / 2
        return self.head(x).astype(jnp.float32)

    def predict_next(self, encoded: Encoded) -> Float[Array, "batch 2"]:
        """With the head pretraining: logits of encoded pairs whose second part does not follow (0) or does (1)."""
        if self.pooler is None or self.next_sentence is None:
            raise ValueError("only a model with the head pretraining predicts the next sentence")
        return self.next_sentence(self.pooler(encoded)).astype(jnp.float32)


def _make_head(config: EncoderOnlyConfig, rows: int, rngs: nnx.Rngs) -> LanguageModelHead | Linear | None:
    if config.head in ("pooled", "none"):
        return None
    if config.head in ("language_model", "pretraining"):
        return LanguageModelHead(config, rows, rngs=rngs)
    return _outputs(config, config.num_outputs, rngs)


def _outputs(config: EncoderOnlyConfig, count: int, rngs: nnx.Rngs) -> Linear:
    width = config.d_model * (2 if config.pooling == "first_and_mean" else 1)
    draw = partial(config.init.kernel, role="classes")
    return Linear((width,), (count,), ("embed", "outputs"), dtype=config.dtype, draw=draw, rngs=rngs)


def _head_map(config: EncoderOnlyConfig, width: int, rngs: nnx.Rngs) -> Linear:
    """The linear map in front of a head's predictions."""
    shape: Any = (config.d_model,), (width,), ("embed", "mlp")
    return Linear(*shape, use_bias=config.head_bias, dtype=config.dtype, draw=config.init.kernel, rngs=rngs)
