"""What the three variants share: the configuration of a model over tokens, and its way out to logits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, TypeVar

import jax
from annotated_types import Ge, Gt
from flax import nnx
from jaxtyping import Array, Float

from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.nn.embedding import Embedding, Logits, Output
from transformer_jax.nn.initializers import SCHEMES, Initializer
from transformer_jax.nn.inputs import TokenInput
from transformer_jax.nn.kernels import AUTO, FUSED, PLAIN
from transformer_jax.nn.layer import LayerConfig
from transformer_jax.nn.named import choose
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.nn.positions import Position


@dataclass(frozen=True)
class TransformerConfig(LayerConfig):
    """A model over tokens; its layers are described by the fields of `LayerConfig`."""

    num_layers: Annotated[int, Ge(1)] = 6
    """Layers of a stack."""
    vocab_size: Annotated[int, Ge(0)] = 0
    """Tokens of the vocabulary; 0: filled in from the tokenizer."""
    embedding_size: Annotated[int, Ge(1)] | None = None
    """Width of the embeddings, mapped to d_model behind them (ALBERT, ELECTRA); None: d_model."""
    tie_output: bool = True
    """The embedding is the output projection as well."""
    embedding_scale: bool = True
    """Embeddings are multiplied by the square root of their width."""
    embedding_norm: bool = False
    """A norm behind the embeddings."""
    logits_scale: Annotated[float, Gt(0)] = 1.0
    """Factor of the logits; T5 with a tied output has 1/sqrt(d_model)."""
    logits_soft_cap: Annotated[float, Ge(0)] = 0.0
    """Logits l become cap * tanh(l / cap), as in Gemma 2; 0: they stay."""
    vocab_multiple: Annotated[int, Ge(1)] = 8
    """Embedding tables have a multiple of this many rows; those without a token are masked."""
    final_norm: bool = False
    """A norm behind each stack; with norm_placement pre it belongs there."""
    shared_layers: bool = False
    """One layer, run num_layers times (ALBERT)."""
    remat: Annotated[bool, MAY_CHANGE] = False
    """Recompute activations in the backward pass instead of storing them."""
    unroll: Annotated[bool, MAY_CHANGE] = False
    """Compile every layer on its own instead of a loop over layers."""

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings."""
        return self.d_model if self.embedding_size is None else self.embedding_size

    @classmethod
    def upgraded(cls, tree: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON of a configuration as version 0.1.0 wrote it, in today's fields."""
        tree = dict(tree)
        base, local_base = tree.pop("rotary_base", 10_000.0), tree.pop("local_rotary_base", None)
        name = tree.get("positions")
        if isinstance(name, str):
            kind = choose("model.positions", name, Position.kinds)
            rotary = {"base": base} if name == "rotary" else {}
            tree["positions"] = {"class": kind.__name__} | rotary
            if rotary and local_base is not None:
                tree["local_positions"] = {"class": kind.__name__, "base": local_base}
        return tree

    def stack(self) -> dict[str, Any]:
        """The arguments of a `Stack` beside layers."""
        return {
            "final_norm": self.final_norm,
            "shared_layers": self.shared_layers,
            "remat": self.remat,
            "unroll": self.unroll,
        }

    def make_embedding(self, vocab_size: int, *, rngs: nnx.Rngs) -> Embedding:
        """A token table of this model."""
        return Embedding(
            vocab_size,
            self.embedding_width,
            scale=self.embedding_scale,
            vocab_multiple=self.vocab_multiple,
            dtype=self.dtype,
            initializer=Initializer(self.initializer),
            rngs=rngs,
        )

    def make_token_input(self, *, token_types: int = 0, rngs: nnx.Rngs) -> TokenInput:
        """From tokens to the vectors of a stack."""
        sizes = replace(self.sizes(), d_model=self.embedding_width)
        return TokenInput(self, sizes, norm=self.embedding_norm, token_types=token_types, rngs=rngs)

    def check(self) -> None:
        """Raises ValueError for a configuration that cannot be built."""
        super().check()
        if self.vocab_size < 1:
            raise ValueError(f"model.vocab_size must be positive, not {self.vocab_size}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.dtype is float32 or bfloat16, not {self.dtype!r}")
        choose("model.attention_kernel", self.attention_kernel, dict.fromkeys((AUTO, PLAIN, *FUSED)))
        choose("model.initializer", self.initializer, SCHEMES)
        if self.initializer == "t5" and (self.attention_scale is None or (self.tie_output and self.logits_scale == 1)):
            raise ValueError(
                "model.initializer t5 needs model.attention_scale 1, and with model.tie_output a model.logits_scale of "
                "1/sqrt(d_model): it draws for scores and logits that are scaled so"
            )

    def reach(self) -> int | None:
        """The longest text that the model's positions have room for; None: any."""
        return self.positions.reach(self.sizes())

    def build(self, seed: int) -> Any:
        """The model with fresh parameters, the same for the same seed."""
        raise NotImplementedError

    def num_parameters(self) -> int:
        """Parameters of the model; rows that only pad the vocabulary are not counted."""
        return count_parameters(jax.eval_shape(lambda: replace(self, vocab_multiple=1).build(0)))


RENAMED = {"rotary_base": "positions=Rotary(base=...)", "local_rotary_base": "local_positions=Rotary(base=...)"}
"""Fields of version 0.1.0 and what they are now."""
Config = TypeVar("Config", bound=TransformerConfig)


def changed(preset: Config, changes: Mapping[str, Any]) -> Config:
    """A preset with other values of some fields; ValueError for a field that has another name now."""
    for name in RENAMED.keys() & changes.keys():
        raise ValueError(f"model.{name} is now written {RENAMED[name]}")
    return replace(preset, **changes)


def count_parameters(model: Any) -> int:
    """Elements of all parameters of a model, which may be abstract (`jax.eval_shape`)."""
    return sum(math.prod(value.shape) for value in named_parameters(model).values())


class TokenModel(nnx.Module):
    """The token table and the output, which every variant has.

    `embedding` is held here, once, because whatever reads tokens and the output share it.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        config.check()
        self.embedding = config.make_embedding(config.vocab_size, rngs=rngs)
        output = partial(Output, config.d_model, config.vocab_size, vocab_multiple=config.vocab_multiple, rngs=rngs)
        initializer = Initializer(config.initializer)
        self.output = None if config.tie_output else output(dtype=config.dtype, initializer=initializer)
        self.logits_scale, self.logits_soft_cap = config.logits_scale, config.logits_soft_cap

    def logits(self, x: Float[Array, "batch length d_model"]) -> Float[Array, "batch length rows"]:
        """Float32 logits of the next token; `rows` is the padded vocabulary."""
        return self.make_logits()(x)

    def make_logits(self) -> Logits:
        """The function `logits`, to be made once where it is called often."""
        return (self.output or self.embedding).make_logits(scale=self.logits_scale, soft_cap=self.logits_soft_cap)


def check_tied(config: TransformerConfig) -> None:
    """Raises ValueError where a tied output would need the width of the model."""
    if config.tie_output and config.embedding_width != config.d_model:
        raise ValueError(
            f"model.tie_output needs embeddings as wide as the model, not {config.embedding_width} of "
            f"{config.d_model}; set it to False"
        )
