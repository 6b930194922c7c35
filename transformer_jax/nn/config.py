"""The configuration of a stack of layers: the paper's, and a field for each later variant."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.nn.initializers import SCHEMES, Initializer
from transformer_jax.nn.kernels import AUTO, FUSED, PLAIN
from transformer_jax.nn.named import choose
from transformer_jax.nn.norm import NORMS
from transformer_jax.nn.positions import NoPositions, Position, Sinusoidal, Sizes

LAYERS = ("global", "local", "no_positions")
"""The kinds of layers that a pattern is made of."""
PLACEMENTS = {"post": (True, False), "pre": (True, False), "both": (True, True), "output": (False, True)}
"""Whether a norm stands in front of a sub-layer (or behind its residual connection), and one on its output."""
QUERY_KEY_NORMS = {"none": 0, "head": 1, "all": 2}
"""Queries and keys are normalised over none, the last (each head) or the last two (all heads) of their dimensions."""


@dataclass(frozen=True)
class LayerKind:
    """In what a layer differs from others of its stack."""

    name: str = "global"
    """One of `LAYERS`."""
    window: int | None = None
    """Its self-attention sees this many positions to each side; None: all."""
    attention_norm: bool = True
    """Whether its self-attention has a norm."""


EVERYWHERE = LayerKind()
"""A layer that sees all positions."""


@dataclass(frozen=True)
class LayerConfig:
    """The layers of a stack, by default those of the paper's base model; each later variant is a field."""

    num_layers: Annotated[int, Ge(1), Le(10_000)] = 6
    """Layers of the stack."""
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
    feed_forward_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout inside the feed-forward network, behind its activation (T5, BART)."""
    stochastic_depth: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability with which the last layer's sub-layers are left out of an example in training; it rises evenly from 0
    in the first layer, as in DeiT (Touvron et al. 2021; Huang et al. 2016 begin above 0). One layer alone has it."""
    layer_drop: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability with which a layer is left out of a batch in training (Fan et al. 2020, "LayerDrop"). It is computed
    all the same: this regularises, and saves no time."""
    layer_scale: Annotated[float, Gt(0)] | None = None
    """What the output of every sub-layer is multiplied by, in each dimension, to begin with; it is learnt (Touvron et
    al. 2021, "CaiT"). None: it is not scaled."""
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
    query_key_norm: str = "none"
    """Normalised queries and keys: head (each head by itself), all (all heads of a token together, as in OLMo 2) or
    none."""
    attention_scale: Annotated[float, Gt(0)] | None = None
    """Factor of the scores (T5: 1); None: 1/sqrt(head_dim), as in the paper."""
    soft_cap: Annotated[float, Ge(0)] = 0.0
    """Attention scores s become cap * tanh(s / cap); 0: they stay."""
    attention_kernel: Annotated[str, MAY_CHANGE] = AUTO
    """auto: what suits the device and the length; splash (TPU) or cudnn (NVIDIA) where possible; xla: plain formula."""
    positions: Position = field(default_factory=Sinusoidal)
    """Where tokens stand: Sinusoidal or Learned (added to embeddings), Rotary, Relative (T5) or Alibi (in
    self-attention), NoPositions, or a kind of one's own; on the command line sinusoidal, learned, rotary, ..., none.
    Patches of pictures may have any, and Sinusoidal2D or Rotary2D."""
    local_positions: Position | None = None
    """The same for local layers; None: no other."""
    pattern: tuple[str, ...] = ("global",)
    """Kinds of layers that repeat from the first layer on: global, local, or no_positions (global without any)."""
    window: Annotated[int, Ge(1), Lt(2**31)] = 128
    """Local layers see this many positions to each side."""
    first_attention_norm: bool = True
    """Whether the first layer's self-attention has a norm; ModernBERT's has none, its embeddings have one."""
    max_length: Annotated[int, Ge(1)] = 1024
    """Positions that a learned table has."""
    final_norm: bool = False
    """A norm behind the stack; with norm_placement pre it belongs there."""
    shared_layers: bool = False
    """One layer, run num_layers times (ALBERT)."""
    remat: Annotated[bool, MAY_CHANGE] = False
    """Recompute activations in the backward pass instead of storing them."""
    unroll: Annotated[bool, MAY_CHANGE] = False
    """Compile every layer on its own instead of a loop over layers."""
    initializer: str = "paper"
    """How parameters are drawn: paper, tensor2tensor, glorot, vit, gpt2, bert or t5 (`nn/initializers.py`)."""
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
        choose("model.query_key_norm", self.query_key_norm, QUERY_KEY_NORMS)
        choose("model.attention_kernel", self.attention_kernel, dict.fromkeys((AUTO, PLAIN, *FUSED)))
        choose("model.initializer", self.initializer, SCHEMES)
        choose("model.dtype", self.dtype, dict.fromkeys(("float32", "bfloat16")))
        if self.num_layers < 1:
            raise ValueError(f"a stack has at least one layer, not {self.num_layers}")
        if not self.pattern or set(self.pattern) - set(LAYERS):
            raise ValueError(f"model.pattern is made of {', '.join(LAYERS)}, not of {self.pattern}")
        if not self.first_attention_norm and self.norm_placement != "pre":
            raise ValueError("model.first_attention_norm False needs model.norm_placement pre")
        if self.shared_layers and len(set(self.kinds())) > 1:
            raise ValueError("model.shared_layers needs layers that are all of one kind")
        if self.local_positions is not None and "local" not in self.pattern:
            raise ValueError(f"model.local_positions needs local layers in model.pattern, not {self.pattern}")
        if self.local_positions is not None and type(self.local_positions).add is not Position.add:
            raise ValueError(f"model.local_positions acts in attention; {self.local_positions} is added to embeddings")
        if self.parallel and self.norm_placement != "pre":
            raise ValueError(f"model.parallel needs model.norm_placement pre, not {self.norm_placement!r}")
        if (self.stochastic_depth or self.layer_scale) and self.norm_placement in ("both", "output"):
            raise ValueError(
                "model.stochastic_depth and model.layer_scale act on a sub-layer's output, which "
                f"model.norm_placement {self.norm_placement} would normalise; use pre or post"
            )
        if self.parallel_norm and not self.parallel:
            raise ValueError("model.parallel_norm is of parallel branches; set model.parallel as well")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self) -> int:
        """Width of a head's queries and keys."""
        return self.d_model // self.num_heads if self.head_dim is None else self.head_dim

    def kinds(self) -> list[LayerKind]:
        """The kind of every layer."""
        names = [self.pattern[i % len(self.pattern)] for i in range(self.num_layers)]
        kinds = [LayerKind(name, self.window if name == "local" else None) for name in names]
        return [replace(kinds[0], attention_norm=self.first_attention_norm), *kinds[1:]]

    def layer_positions(self) -> dict[str, Position]:
        """The kind of position of every kind of layer in the pattern."""
        local = self.positions if self.local_positions is None else self.local_positions
        kinds: dict[str, Position] = {"global": self.positions, "local": local, "no_positions": NoPositions()}
        return {name: kinds[name] for name in self.pattern}

    def sizes(self, *, causal: bool = False) -> Sizes:
        """The sizes that a kind of position may need."""
        return Sizes(self.d_model, self.num_heads, self.head_width, self.max_length, causal)

    def make_norm(self, size: int, axis: str = "embed") -> Any:
        """The norm of this configuration for vectors of some size."""
        kwargs = {} if self.norm_bias or self.norm != "layer_norm" else {"use_bias": False}
        return choose("model.norm", self.norm, NORMS)(size, epsilon=self.norm_epsilon, axis=axis, **kwargs)

    @property
    def init(self) -> Initializer:
        """How the maps and tables of this configuration are drawn."""
        return Initializer(self.initializer, self.num_layers)
