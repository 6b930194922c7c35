"""One layer of an encoder or a decoder."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transformer_jax.nn.attention import Attention, Bias, KeysValues
from transformer_jax.nn.cache import KeyValueCache
from transformer_jax.nn.feed_forward import FeedForward
from transformer_jax.nn.initializers import Initializer
from transformer_jax.nn.kernels import AUTO
from transformer_jax.nn.linear import dropout
from transformer_jax.nn.mask import EVERYTHING, AttentionMask
from transformer_jax.nn.named import choose
from transformer_jax.nn.norm import NORMS
from transformer_jax.parallel.axes import constrain

Vectors = Float[Array, "batch length d_model"]
PositionBias = Callable[[Int[Array, "#batch query"], Int[Array, "#batch key"]], Bias]
"""From the positions of queries and keys to a bias of their scores."""


class LayerKind(NamedTuple):
    """In what a layer differs from others of its stack."""

    window: int | None = None
    """Its self-attention sees this many positions to each side; None: all."""
    rotary_base: float | None = None
    """Wavelengths of its rotary positions; None: it has none."""
    attention_norm: bool = True
    """Whether its self-attention has a norm."""


GLOBAL = LayerKind()


@dataclass(frozen=True)
class LayerConfig:
    """The layers of the paper's base model; each later variant is a field."""

    d_model: int = 512
    """Width of the vectors between layers."""
    num_heads: int = 8
    """Attention heads; divides d_model."""
    num_kv_heads: int | None = None
    """Heads of keys and values, each shared by several query heads (GQA); None: as many as query heads."""
    head_dim: int | None = None
    """Width of a head; None: d_model / num_heads."""
    d_ff: int = 2048
    """Width inside the feed-forward network."""
    dropout: float = 0.1
    """Dropout on the output of every sub-layer and on the embeddings."""
    attention_dropout: float = 0.0
    """Dropout on attention weights."""
    activation: str = "relu"
    """relu, gelu, gelu_tanh or silu."""
    gated: bool = False
    """A second, multiplicative branch in the feed-forward network (GLU)."""
    norm: str = "layer_norm"
    """layer_norm or rms_norm."""
    norm_placement: str = "post"
    """post: LN(x + f(x)), as in the paper; pre: x + f(LN(x))."""
    norm_epsilon: float = 1e-6
    """Added to the variance."""
    norm_bias: bool = True
    """Biases in layer norms."""
    attention_bias: bool = False
    """Biases in the four maps of attention."""
    feed_forward_bias: bool = True
    """Biases in the two maps of the feed-forward network."""
    query_key_norm: bool = False
    """Queries and keys are normalised in every head."""
    soft_cap: float = 0.0
    """Attention scores s become cap * tanh(s / cap); 0: they stay."""
    attention_kernel: str = AUTO
    """auto: what suits the device and the length; splash (TPU) or cudnn (NVIDIA) where possible; xla: plain formula."""
    positions: str = "sinusoidal"
    """sinusoidal or learned (added to embeddings), rotary, relative (T5) or alibi (in self-attention), or none."""
    rotary_base: float = 10_000.0
    """The longest wavelength of rotary positions is 2 pi times this."""
    local_rotary_base: float | None = None
    """The same for local layers; None: no other."""
    pattern: tuple[str, ...] = ("global",)
    """Kinds of layers, global or local, that repeat from the first layer on."""
    window: int = 128
    """Local layers see this many positions to each side."""
    first_attention_norm: bool = True
    """Whether the first layer's self-attention has a norm; ModernBERT's has none, its embeddings have one."""
    initializer: str = "paper"
    """How parameters are drawn: paper, tensor2tensor, glorot, gpt2, bert or t5 (`nn/initializers.py`)."""
    dtype: str = "float32"
    """float32 or bfloat16: of products and of vectors between layers; parameters, norms and losses are float32."""

    def kinds(self, num_layers: int) -> list[LayerKind]:
        """The kind of every layer; ValueError for a pattern that there cannot be."""
        if not self.pattern or set(self.pattern) - {"global", "local"}:
            raise ValueError(f"model.pattern is made of global and local, not of {self.pattern}")
        if self.window < 1:
            raise ValueError(f"model.window must be positive, not {self.window}")
        rotary = self.positions == "rotary"
        kinds = {
            "global": LayerKind(None, self.rotary_base if rotary else None),
            "local": LayerKind(self.window, (self.local_rotary_base or self.rotary_base) if rotary else None),
        }
        layers = [kinds[self.pattern[i % len(self.pattern)]] for i in range(num_layers)]
        return [layers[0]._replace(attention_norm=self.first_attention_norm), *layers[1:]]

    def make_norm(self, size: int, axis: str = "embed") -> Any:
        """The norm of this configuration for vectors of some size."""
        kwargs = {} if self.norm_bias or self.norm != "layer_norm" else {"use_bias": False}
        return choose("norm", self.norm, NORMS)(size, epsilon=self.norm_epsilon, axis=axis, **kwargs)

    def norm_parameters(self, size: int) -> int:
        """Parameters of such a norm."""
        return size * (2 if self.norm == "layer_norm" and self.norm_bias else 1)

    def layer_parameters(self, *, cross_attention: bool = False) -> int:
        """Parameters of one layer, by a closed formula; the first layer may lack a norm."""
        d, ff = self.d_model, self.d_ff
        head_dim = self.head_dim or d // self.num_heads
        queries, keys = self.num_heads * head_dim, (self.num_kv_heads or self.num_heads) * head_dim
        attention = 2 * d * (queries + keys) + ((queries + 2 * keys + d) if self.attention_bias else 0)
        attention += 2 * self.norm_parameters(head_dim) if self.query_key_norm else 0
        inner = 2 if self.gated else 1
        feed_forward = (inner + 1) * d * ff + ((inner * ff + d) if self.feed_forward_bias else 0)
        attentions = 2 if cross_attention else 1
        return attentions * attention + feed_forward + (attentions + 1) * self.norm_parameters(d)


class LayerCache(NamedTuple):
    """What a decoder layer keeps between tokens."""

    own: KeyValueCache
    """Keys and values of the tokens so far, or of those in the layer's window."""
    memory: KeysValues | None
    """Keys and values of the encoder's output, computed once."""


class TransformerLayer(nnx.Module):
    """Self-attention, attention to a memory (decoders with an encoder) and feed-forward, each with residual and norm.

    The paper's form is `LN(x + dropout(f(x)))` (Vaswani et al. 2017, sections 3.1 and 5.4); with
    `norm_placement="pre"` it is `x + dropout(f(LN(x)))`.
    """

    def __init__(
        self,
        config: LayerConfig,
        kind: LayerKind = GLOBAL,
        *,
        cross_attention: bool = False,
        num_layers: int = 1,
        rngs: nnx.Rngs,
    ):
        if config.norm_placement not in ("pre", "post"):
            raise ValueError(f"model.norm_placement is 'pre' or 'post', not {config.norm_placement!r}")
        initializer = Initializer(config.initializer, num_layers)
        attention = functools.partial(
            Attention,
            config.d_model,
            config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            head_norm=config.make_norm if config.query_key_norm else None,
            soft_cap=config.soft_cap,
            use_bias=config.attention_bias,
            dropout=config.attention_dropout,
            kernel=config.attention_kernel,
            dtype=config.dtype,
            initializer=initializer,
            rngs=rngs,
        )
        self.self_attention = attention(rotary_base=kind.rotary_base)
        self.self_attention_norm = config.make_norm(config.d_model) if kind.attention_norm else None
        self.cross_attention = attention(to_memory=True) if cross_attention else None
        self.cross_attention_norm = config.make_norm(config.d_model) if cross_attention else None
        self.feed_forward = FeedForward(
            config.d_model,
            config.d_ff,
            activation=config.activation,
            gated=config.gated,
            use_bias=config.feed_forward_bias,
            dtype=config.dtype,
            initializer=initializer,
            rngs=rngs,
        )
        self.feed_forward_norm = config.make_norm(config.d_model)
        self.window = kind.window
        self.pre_norm = config.norm_placement == "pre"
        self.dropout = config.dropout

    def __call__(
        self,
        x: Vectors,
        memory: Float[Array, "batch memory d_model"] | None = None,
        *,
        mask: AttentionMask = EVERYTHING,
        memory_mask: AttentionMask = EVERYTHING,
        positions: Int[Array, "#batch length"] | None = None,
        bias: Bias | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Vectors:
        """One layer over whole sequences; `key` turns dropout on. `positions` default to 0, 1, 2, ..."""
        keys = [None] * 5 if key is None else list(jax.random.split(key, 5))
        look = functools.partial(
            self.self_attention, mask=self._narrowed(mask), positions=positions, bias=bias, key=keys[0]
        )
        x = self._residual(self.self_attention_norm, x, look, keys[1])
        if self.cross_attention is not None and memory is not None:
            attend = functools.partial(self.cross_attention, memory=memory, mask=memory_mask, key=keys[2])
            x = self._residual(self.cross_attention_norm, x, attend, keys[3])
        return self._residual(self.feed_forward_norm, x, self.feed_forward, keys[4])

    def start_cache(
        self, batch: int, capacity: int, memory: Float[Array, "rows memory d_model"] | None = None
    ) -> LayerCache:
        """An empty cache for `capacity` tokens of each of `batch` sequences, or for as many as the window holds."""
        _, heads, head_dim = self.self_attention.key.kernel.shape
        capacity = capacity if self.window is None else min(self.window + 1, capacity)
        own = KeyValueCache.empty(batch, capacity, heads, head_dim, self.self_attention.key.dtype)
        if self.cross_attention is None or memory is None:
            return LayerCache(own, None)
        return LayerCache(own, self.cross_attention.keys_values(memory))

    def extend(
        self,
        x: Vectors,
        cache: LayerCache,
        *,
        positions: Int[Array, "batch length"],
        memory_mask: AttentionMask = EVERYTHING,
        position_bias: PositionBias | None = None,
        index: Int[Array, ""] | None = None,
    ) -> tuple[Vectors, LayerCache]:
        """The layer for `length` more tokens: they see the cached ones and, causally, each other.

        With `index`, `cache.own` is that of a whole stack, of which this is the layer of that number.
        """
        own, memory, cross_attention = cache.own, cache.memory, self.cross_attention

        def attend_self(h: Vectors) -> Vectors:
            nonlocal own
            new = (*self.self_attention.keys_values(h, positions), positions)
            if self.window is None or positions.shape[1] == 1:
                own = own.append(*new, index=index)
                seen = own.layer(index)
            else:
                seen = own.layer(index).followed_by(*new)
                own = own.replaced(seen.newest(own.positions.shape[-1]), index)
            mask = self._narrowed(AttentionMask(causal=True, query_positions=positions, key_positions=seen.positions))
            bias = None if position_bias is None else position_bias(positions, seen.positions)
            return self.self_attention.attend(h, (seen.key, seen.value), mask=mask, positions=positions, bias=bias)

        x = self._residual(self.self_attention_norm, x, attend_self)
        if cross_attention is not None and memory is not None:

            def attend_memory(h: Vectors) -> Vectors:
                # Rows that share a memory (the hypotheses of a beam) become further queries of its one row.
                queries = h.reshape(memory[0].shape[0], -1, h.shape[-1])
                return cross_attention.attend(queries, memory, mask=memory_mask).reshape(h.shape)

            x = self._residual(self.cross_attention_norm, x, attend_memory)
        return self._residual(self.feed_forward_norm, x, self.feed_forward), LayerCache(own, memory)

    def attention_weights(
        self,
        x: Vectors,
        memory: Float[Array, "batch memory d_model"] | None = None,
        *,
        mask: AttentionMask,
        memory_mask: AttentionMask = EVERYTHING,
        positions: Int[Array, "#batch length"] | None = None,
        bias: Bias | None = None,
    ) -> dict[str, Float[Array, "batch heads length _"]]:
        """The weights of self-attention and, where there is a memory, of cross-attention, for this layer's input."""
        described: dict[str, Any] = {"mask": self._narrowed(mask), "positions": positions, "bias": bias}
        h = self._input(self.self_attention_norm, x)
        weights = {"self_attention": self.self_attention.weights(h, h, **described)}
        if self.cross_attention is not None and memory is not None:
            x = self._residual(self.self_attention_norm, x, lambda h: self.self_attention(h, **described))
            h = self._input(self.cross_attention_norm, x)
            weights["cross_attention"] = self.cross_attention.weights(h, memory, mask=memory_mask)
        return weights

    def _narrowed(self, mask: AttentionMask) -> AttentionMask:
        return mask if self.window is None else replace(mask, window=(self.window, self.window))

    def _input(self, norm: Any, x: Vectors) -> Vectors:
        return norm(x) if self.pre_norm and norm is not None else x

    def _residual(
        self, norm: Any, x: Vectors, function: Callable[[Vectors], Vectors], key: PRNGKeyArray | None = None
    ) -> Vectors:
        y = function(self._input(norm, x))
        y = constrain(x + dropout(y, self.dropout, key), ("batch", "length", "embed"))
        return y if self.pre_norm or norm is None else norm(y)
