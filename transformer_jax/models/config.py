"""The configuration of a model, which the three variants extend."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

import jax
from annotated_types import Ge, Le
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from transformer_jax.nn.config import LayerConfig
from transformer_jax.nn.embedding import Embedding
from transformer_jax.nn.inputs import Input, Lengths, TokenIds
from transformer_jax.nn.layer import TransformerLayer
from transformer_jax.nn.named import choose
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.nn.positions import Position
from transformer_jax.nn.stack import Intermediates


@dataclass(frozen=True)
class TransformerConfig(LayerConfig):
    """A model; its stack is described by the fields of `LayerConfig`."""

    layer: ClassVar[type[TransformerLayer]] = TransformerLayer
    """The class of the layers; a subclass of one's own has another."""
    vocab_size: Annotated[int, Ge(0)] = 0
    """Tokens of the vocabulary; 0: filled in from the tokenizer."""
    embedding_size: Annotated[int, Ge(1)] | None = None
    """Width of the embeddings, mapped to d_model behind them (ALBERT, ELECTRA); None: d_model."""
    embedding_scale: bool = True
    """Embeddings are multiplied by the square root of their width."""
    embedding_norm: bool = False
    """A norm behind the embeddings."""
    vocab_multiple: Annotated[int, Ge(1), Le(2**20)] = 8
    """Embedding tables have a multiple of this many rows; those without a token are masked."""
    input: Input = field(default_factory=TokenIds)
    """What the encoder reads: TokenIds, Patches of pictures or Frames of sound; on the command line tokens, patches,
    frames."""

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings."""
        return self.d_model if self.embedding_size is None else self.embedding_size

    @property
    def reads_text(self) -> bool:
        """Whether the model has an embedding of tokens."""
        return True

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
        if isinstance(tree.get("query_key_norm"), bool):
            tree["query_key_norm"] = "head" if tree["query_key_norm"] else "none"
        return tree

    def make_embedding(self, vocab_size: int, layers: LayerConfig | None = None, *, rngs: nnx.Rngs) -> Embedding:
        """The token embedding in front of a stack with these layers, by default its own."""
        arguments: dict[str, Any] = {"scale": self.embedding_scale, "vocab_multiple": self.vocab_multiple}
        width = self.embedding_width if layers is None else self.embedding_size or layers.d_model
        return Embedding(vocab_size, width, **arguments, dtype=self.dtype, initializer=self.init, rngs=rngs)

    def make_input(
        self, kind: Input, layers: LayerConfig | None = None, *, token_types: int = 0, rngs: nnx.Rngs
    ) -> Any:
        """The input of this kind in front of a stack with these layers, by default its own."""
        layers = layers or self
        sizes = replace(layers.sizes(), d_model=self.embedding_size or layers.d_model)
        return kind.make(layers, sizes, norm=self.embedding_norm, token_types=token_types, rngs=rngs)

    def check(self) -> None:
        """Raises ValueError for a configuration that cannot be built."""
        super().check()
        if self.reads_text and self.vocab_size < 1:
            raise ValueError(f"model.vocab_size must be positive, not {self.vocab_size}")
        if self.initializer == "t5" and self.attention_scale is None:
            raise ValueError("model.initializer t5 needs model.attention_scale 1: it draws for scores of that scale")

    def reach(self) -> int | None:
        """The longest text that the model's positions have room for; None: any."""
        return self.positions.reach(self.sizes()) if self.reads_text else None

    def build(self, seed: int | PRNGKeyArray) -> Any:
        """The model with fresh parameters, the same for the same seed or key."""
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
    if isinstance(changes.get("query_key_norm"), bool):
        raise ValueError("model.query_key_norm is now head, all or none; True was head")
    return replace(preset, **changes)


def count_parameters(model: Any) -> int:
    """Elements of all parameters of a model, which may be abstract (`jax.eval_shape`)."""
    return sum(math.prod(value.shape) for value in named_parameters(model).values())


class Encoded(NamedTuple):
    """The output of a stack: what a decoder attends to, and what a head predicts from."""

    vectors: Float[Array, "batch length d_model"]
    lengths: Lengths | None = None
    """Vectors of each row that are no padding; None: all."""
    intermediates: Intermediates | None = None
    """What happened inside the stack, where that was asked for."""
