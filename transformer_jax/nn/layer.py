"""One layer of an encoder or a decoder: its configuration, a field for each variant of the paper's, and its wiring."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NamedTuple

import jax
from annotated_types import Ge, Gt, Le, Lt
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.nn.attention import Attention, KeysValues, Weights
from transformer_jax.nn.cache import KeyValueCache
from transformer_jax.nn.feed_forward import FeedForward
from transformer_jax.nn.initializers import Initializer
from transformer_jax.nn.kernels import AUTO
from transformer_jax.nn.linear import dropout
from transformer_jax.nn.mask import EVERYTHING, AttentionMask
from transformer_jax.nn.named import choose
from transformer_jax.nn.norm import NORMS
from transformer_jax.nn.positions import NoPositions, Placed, Position, Sinusoidal, Sizes, Vectors
from transformer_jax.parallel.axes import constrain

PLACEMENTS = {"post": (True, False), "pre": (True, False), "both": (True, True), "output": (False, True)}
"""Whether a norm stands in front of a sub-layer (or behind its residual connection), and one on its output."""
LAYERS = ("global", "local", "no_positions")
"""The kinds of layers that a pattern is made of."""


@dataclass(frozen=True)
class LayerKind:
    """In what a layer differs from others of its stack."""

    name: str = "global"
    """One of `LAYERS`."""
    window: int | None = None
    """Its self-attention sees this many positions to each side; None: all."""
    attention_norm: bool = True
    """Whether its self-attention has a norm."""


@dataclass(frozen=True)
class LayerConfig:
    """The layers of the paper's base model; each later variant is a field."""

    d_model: Annotated[int, Ge(1), Le(2**20)] = 512
    """Width of the vectors between layers."""
    num_heads: Annotated[int, Ge(1)] = 8
    """Attention heads; divides d_model."""
    num_kv_heads: int | None = None
    """Heads of keys and values, each shared by several query heads (GQA); None: as many as query heads."""
    head_dim: Annotated[int, Ge(1)] | None = None
    """Width of a head's queries and keys; None: d_model / num_heads."""
    value_dim: Annotated[int, Ge(1)] | None = None
    """Width of a head's values; None: that of its keys."""
    d_ff: Annotated[int, Ge(1), Le(2**22)] = 2048
    """Width inside the feed-forward network."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout on the output of every sub-layer and on the embeddings."""
    attention_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout on attention weights."""
    activation: str = "relu"
    """relu, gelu, gelu_tanh or silu."""
    gated: bool = False
    """A second, multiplicative branch in the feed-forward network (GLU)."""
    norm: str = "layer_norm"
    """layer_norm, rms_norm, or zero_centred_rms_norm, which multiplies by one more than its parameter (Gemma)."""
    norm_placement: str = "post"
    """post: LN(x + f(x)), as in the paper; pre: x + f(LN(x)); both: x + LN(f(LN(x))); output: x + LN(f(x))."""
    norm_epsilon: Annotated[float, Ge(0)] = 1e-6
    """Added to the variance."""
    norm_bias: bool = True
    """Biases in layer norms."""
    parallel: bool = False
    """x + attention(LN(x)) + feed_forward(LN(x)), as in GPT-NeoX; needs norm_placement pre and no cross-attention."""
    parallel_norm: bool = False
    """Whether parallel branches have one norm in common, as in GPT-J and Phi."""
    attention_bias: bool = False
    """Biases in the four maps of attention."""
    key_bias: bool | None = None
    """A bias in the map of keys (Whisper has none); None: as attention_bias says."""
    attention_output_bias: bool | None = None
    """A bias in the last map of attention (Qwen 2 has none); None: as attention_bias says."""
    feed_forward_bias: bool = True
    """Biases in the two maps of the feed-forward network."""
    query_key_norm: bool = False
    """Queries and keys are normalised in every head."""
    attention_scale: Annotated[float, Gt(0)] | None = None
    """Factor of the scores (T5: 1); None: 1/sqrt(head_dim), as in the paper."""
    soft_cap: Annotated[float, Ge(0)] = 0.0
    """Attention scores s become cap * tanh(s / cap); 0: they stay."""
    attention_kernel: Annotated[str, MAY_CHANGE] = AUTO
    """auto: what suits the device and the length; splash (TPU) or cudnn (NVIDIA) where possible; xla: plain formula."""
    positions: Position = field(default_factory=Sinusoidal)
    """Where tokens stand: Sinusoidal or Learned (added to embeddings), Rotary, Relative (T5) or Alibi (in
    self-attention), NoPositions, or a kind of one's own; on the command line sinusoidal, learned, rotary, ..., none."""
    local_positions: Position | None = None
    """The same for local layers; None: no other."""
    pattern: tuple[str, ...] = ("global",)
    """Kinds of layers that repeat from the first layer on: global, local, or no_positions (global without any)."""
    window: Annotated[int, Ge(1)] = 128
    """Local layers see this many positions to each side."""
    first_attention_norm: bool = True
    """Whether the first layer's self-attention has a norm; ModernBERT's has none, its embeddings have one."""
    max_length: Annotated[int, Ge(1)] = 1024
    """Positions that a learned table has."""
    initializer: str = "paper"
    """How parameters are drawn: paper, tensor2tensor, glorot, gpt2, bert or t5 (`nn/initializers.py`)."""
    dtype: str = "float32"
    """float32 or bfloat16: of products and of vectors between layers; parameters, norms and losses are float32."""

    def __post_init__(self) -> None:
        """Takes the name of a kind of position for the kind with its defaults."""
        for name in ("positions", "local_positions"):
            kind: Any = getattr(self, name)
            if isinstance(kind, str):
                object.__setattr__(self, name, choose(f"model.{name}", kind, Position.kinds)())

    def check(self) -> None:
        """Raises ValueError for fields that contradict each other, and for unknown names."""
        choose("model.norm_placement", self.norm_placement, PLACEMENTS)
        if not self.pattern or set(self.pattern) - set(LAYERS):
            raise ValueError(f"model.pattern is made of {', '.join(LAYERS)}, not of {self.pattern}")
        if not self.first_attention_norm and self.norm_placement != "pre":
            raise ValueError("model.first_attention_norm False needs model.norm_placement pre")
        if self.local_positions is not None and "local" not in self.pattern:
            raise ValueError(f"model.local_positions needs local layers in model.pattern, not {self.pattern}")
        if self.local_positions is not None and type(self.local_positions).add is not Position.add:
            raise ValueError(f"model.local_positions acts in attention; {self.local_positions} is added to embeddings")
        if self.parallel and self.norm_placement != "pre":
            raise ValueError(f"model.parallel needs model.norm_placement pre, not {self.norm_placement!r}")
        if self.parallel_norm and not self.parallel:
            raise ValueError("model.parallel_norm is of parallel branches; set model.parallel as well")

    def kinds(self, num_layers: int) -> list[LayerKind]:
        """The kind of every layer."""
        self.check()
        names = [self.pattern[i % len(self.pattern)] for i in range(num_layers)]
        kinds = [LayerKind(name, self.window if name == "local" else None) for name in names]
        return [replace(kinds[0], attention_norm=self.first_attention_norm), *kinds[1:]]

    def layer_positions(self) -> dict[str, Position]:
        """The positions of every kind of layer in the pattern."""
        local = self.positions if self.local_positions is None else self.local_positions
        kinds: dict[str, Position] = {"global": self.positions, "local": local, "no_positions": NoPositions()}
        return {name: kinds[name] for name in self.pattern}

    def sizes(self, *, causal: bool = False) -> Sizes:
        """What a position is told of the model."""
        head_dim = self.head_dim or self.d_model // self.num_heads
        return Sizes(self.d_model, self.num_heads, head_dim, self.max_length, causal)

    def make_norm(self, size: int, axis: str = "embed") -> Any:
        """The norm of this configuration for vectors of some size."""
        kwargs = {} if self.norm_bias or self.norm != "layer_norm" else {"use_bias": False}
        return choose("norm", self.norm, NORMS)(size, epsilon=self.norm_epsilon, axis=axis, **kwargs)

    def make_attention(self, to_memory: bool, num_layers: int, rngs: nnx.Rngs) -> Attention:
        """Self-attention, or attention to a memory, of a stack of `num_layers`."""
        return Attention(
            self.d_model,
            self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            value_dim=self.value_dim,
            head_norm=self.make_norm if self.query_key_norm else None,
            scale=self.attention_scale,
            soft_cap=self.soft_cap,
            use_bias=self.attention_bias,
            key_bias=self.key_bias,
            output_bias=self.attention_output_bias,
            dropout=self.attention_dropout,
            kernel=self.attention_kernel,
            dtype=self.dtype,
            to_memory=to_memory,
            initializer=Initializer(self.initializer, num_layers),
            rngs=rngs,
        )

    def make_feed_forward(self, num_layers: int, rngs: nnx.Rngs) -> FeedForward:
        """The feed-forward network of a stack of `num_layers`."""
        return FeedForward(
            self.d_model,
            self.d_ff,
            activation=self.activation,
            gated=self.gated,
            use_bias=self.feed_forward_bias,
            dtype=self.dtype,
            initializer=Initializer(self.initializer, num_layers),
            rngs=rngs,
        )

    def make_layer(
        self, kind: LayerKind, *, cross_attention: bool, num_layers: int, rngs: nnx.Rngs
    ) -> "TransformerLayer":
        """A layer of a stack of `num_layers`; a configuration of one's own can make another."""
        return TransformerLayer(self, kind, cross_attention=cross_attention, num_layers=num_layers, rngs=rngs)


SubLayer = Callable[[Vectors], Vectors]
"""Self-attention, attention to a memory or the feed-forward network, dropout on its output included."""


class LayerCache(NamedTuple):
    """What a decoder layer keeps between tokens."""

    own: KeyValueCache
    """Keys and values of the tokens so far, or of those in the layer's window."""
    memory: KeysValues | None
    """Keys and values of the encoder's output, computed once."""


class TransformerLayer(nnx.Module):
    """Self-attention, attention to a memory (decoders with an encoder) and feed-forward, each with residual and norm.

    The paper's form is `LN(x + dropout(f(x)))` (Vaswani et al. 2017, sections 3.1 and 5.4); `norm_placement` has the
    others. Another form overrides `combine`, and works in training, in decoding and for looking inside.
    """

    def __init__(
        self,
        config: LayerConfig,
        kind: LayerKind = LayerKind(),
        *,
        cross_attention: bool = False,
        num_layers: int = 1,
        rngs: nnx.Rngs,
    ):
        before, after = choose("model.norm_placement", config.norm_placement, PLACEMENTS)

        def norm(wanted: bool) -> Any:
            return config.make_norm(config.d_model) if wanted else None

        self.self_attention = config.make_attention(False, num_layers, rngs)
        self.self_attention_norm = norm(before and kind.attention_norm)
        self.self_attention_output_norm = norm(after)
        self.cross_attention = config.make_attention(True, num_layers, rngs) if cross_attention else None
        self.cross_attention_norm = norm(before and cross_attention)
        self.cross_attention_output_norm = norm(after and cross_attention)
        self.feed_forward = config.make_feed_forward(num_layers, rngs)
        self.feed_forward_norm = norm(before and not config.parallel_norm)
        self.feed_forward_output_norm = norm(after)
        self.kind = kind
        self.post_norm = config.norm_placement == "post"
        self.parallel = config.parallel
        self.dropout = config.dropout

    def __call__(
        self,
        x: Vectors,
        memory: Float[Array, "rows memory d_model"] | None = None,
        *,
        mask: AttentionMask = EVERYTHING,
        memory_mask: AttentionMask = EVERYTHING,
        placed: Placed | None = None,
        cache: LayerCache | None = None,
        key: PRNGKeyArray | None = None,
        intermediates: bool = False,
    ) -> tuple[Vectors, LayerCache | None, dict[str, Weights]]:
        """The layer's output, its cache, and with `intermediates` the weights of its attentions by name.

        `placed` says where the tokens of `x` stand. With a `cache`, they follow those in it. `key` turns dropout on.
        """
        keys = [None] * 5 if key is None else list(jax.random.split(key, 5))
        own, of_memory = (None, None) if cache is None else cache
        inside: dict[str, Weights] = {}
        if self.kind.window is not None:
            mask = replace(mask, window=(self.kind.window, self.kind.window))

        def attend_self(h: Vectors) -> Vectors:
            nonlocal own
            described: dict[str, Any] = {"mask": mask, "placed": placed, "cache": own}
            y, own, weights = self.self_attention(h, **described, key=keys[0], intermediates=intermediates)
            return finished(y, "self_attention", weights, keys[1])

        def attend_memory(h: Vectors) -> Vectors:
            attention: Any = self.cross_attention
            described: dict[str, Any] = {"mask": memory_mask, "cache": of_memory}
            y, _, weights = attention(h, memory, **described, key=keys[2], intermediates=intermediates)
            return finished(y, "cross_attention", weights, keys[3])

        def finished(y: Vectors, name: str, weights: Weights | None, key: PRNGKeyArray | None) -> Vectors:
            if weights is not None:
                inside[name] = weights
            return dropout(y, self.dropout, key)

        def feed(h: Vectors) -> Vectors:
            return dropout(self.feed_forward(h), self.dropout, keys[4])

        reads_memory = self.cross_attention is not None and (memory is not None or of_memory is not None)
        x = self.combine(x, attend_self, attend_memory if reads_memory else None, feed)
        return x, None if own is None else LayerCache(own, of_memory), inside

    def combine(self, x: Vectors, attend_self: SubLayer, attend_memory: SubLayer | None, feed: SubLayer) -> Vectors:
        """The residual connections and norms between the sub-layers."""
        if self.parallel:
            h = self._normed("self_attention_norm", x)
            shared = self.feed_forward_norm is None
            y = attend_self(h) + feed(h if shared else self._normed("feed_forward_norm", x))
            return constrain(x + y, ("batch", "length", "embed"))
        x = self.residual("self_attention", x, attend_self)
        x = x if attend_memory is None else self.residual("cross_attention", x, attend_memory)
        return self.residual("feed_forward", x, feed)

    def residual(self, name: str, x: Vectors, sub_layer: SubLayer) -> Vectors:
        """A sub-layer with its residual connection and the norms of its name."""
        y = sub_layer(x if self.post_norm else self._normed(f"{name}_norm", x))
        y = constrain(x + self._normed(f"{name}_output_norm", y), ("batch", "length", "embed"))
        return self._normed(f"{name}_norm", y) if self.post_norm else y

    def start_cache(
        self, batch: int, capacity: int, memory: Float[Array, "rows memory d_model"] | None = None
    ) -> LayerCache:
        """An empty cache for `capacity` tokens of each of `batch` sequences, or for as many as the window holds."""
        window = self.kind.window
        own = self.self_attention.start_cache(batch, capacity if window is None else min(window + 1, capacity))
        if self.cross_attention is None or memory is None:
            return LayerCache(own, None)
        return LayerCache(own, self.cross_attention.keys_values(memory))

    def _normed(self, name: str, x: Vectors) -> Vectors:
        norm = getattr(self, name)
        return x if norm is None else norm(x)
