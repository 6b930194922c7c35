"""How linear maps and tables are drawn before training, which decides how fast a model learns.

A scheme is one function from a map to the standard deviation of its elements, and a distribution:

paper          Glorot and Bengio (2010), queries, keys and values drawn as one map of three times the width, as in the
               paper's own code, fairseq and PyTorch: smaller than each by itself by 1/sqrt(2)
tensor2tensor  the same, but in attention to a memory queries by themselves, keys and values as one map of twice the
               width (github.com/tensorflow/tensor2tensor, first release, layers/common_attention.py)
glorot         the same, each map by itself
vit            glorot, and zeros for the map to the classes (Dosovitskiy et al. 2021, section 3.2, for fine-tuning;
               github.com/google-research/big_vision for both)
gpt2           Radford et al. 2019, section 2.3: 0.02, maps into the residual stream divided by sqrt(2 layers)
bert           Devlin et al. 2019: 0.02, cut off at two standard deviations (github.com/google-research/bert)
t5             Raffel et al. 2020: 1/sqrt(inputs), queries divided by sqrt(head_dim) as well, since scores are not
               (github.com/google-research/text-to-text-transfer-transformer, mesh_tensorflow's attention)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from transformer_jax.nn.named import choose


class Map(NamedTuple):
    """A linear map as a scheme sees it."""

    inputs: int
    outputs: int
    num_layers: int
    """Layers of the stack that the map belongs to."""
    projections: tuple[int, ...] = ()
    """For queries, keys and values: the outputs of all three, in this order."""
    role: str = ""
    """query, key or value; residual: its output is added to the residual stream; classes: it predicts these."""
    cross: bool = False
    """Whether it is part of attention to a memory."""
    head_dim: int = 1
    """Width of a head, for queries."""


def glorot(shape: Map) -> float:
    """`sqrt(2 / (inputs + outputs))`, the standard deviation of U(-l, l) with l^2 = 6 / (inputs + outputs)."""
    return math.sqrt(2 / (shape.inputs + shape.outputs))


def _paper(shape: Map) -> float:
    return glorot(shape._replace(outputs=sum(shape.projections) or shape.outputs))


def _tensor2tensor(shape: Map) -> float:
    if not shape.cross:
        return _paper(shape)
    return glorot(shape if shape.role == "query" else shape._replace(outputs=sum(shape.projections[1:])))


def _vit(shape: Map) -> float:
    return 0.0 if shape.role == "classes" else glorot(shape)


def _gpt2(shape: Map) -> float:
    return 0.02 / math.sqrt(2 * shape.num_layers) if shape.role == "residual" else 0.02


def _t5(shape: Map) -> float:
    return (shape.inputs * (shape.head_dim if shape.role == "query" else 1)) ** -0.5


def _uniform(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    return jax.random.uniform(key, shape, minval=-math.sqrt(3), maxval=math.sqrt(3))


def _cut_off(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    return jax.random.truncated_normal(key, -2.0, 2.0, shape)


class Scheme(NamedTuple):
    """A way to draw a model."""

    deviation: Callable[[Map], float]
    """The standard deviation of a map; with a distribution that is cut off, before that is done."""
    draw: Callable[[PRNGKeyArray, tuple[int, ...]], Array]
    """Numbers of deviation 1."""
    tables: Callable[[str, int], float]
    """The standard deviation of a table of vectors (tokens, positions, token_types, bias), given the model's width."""
    draw_table: Callable[[PRNGKeyArray, tuple[int, ...]], Array] = jax.random.normal


def _by_width(table: str, d_model: int) -> float:
    return d_model**-0.5


SCHEMES = {
    "paper": Scheme(_paper, _uniform, _by_width),
    "tensor2tensor": Scheme(_tensor2tensor, _uniform, _by_width),
    "glorot": Scheme(glorot, _uniform, _by_width),
    "vit": Scheme(_vit, _uniform, _by_width),
    "gpt2": Scheme(_gpt2, jax.random.normal, lambda table, _: 0.01 if table == "positions" else 0.02),
    "bert": Scheme(lambda _: 0.02, _cut_off, lambda *_: 0.02, _cut_off),
    "t5": Scheme(_t5, jax.random.normal, lambda table, d_model: d_model**-0.5 if table == "bias" else 1.0),
}


@dataclass(frozen=True)
class Initializer:
    """Draws the maps and tables of a model, or of a stack of `num_layers`, by the scheme of a name."""

    scheme: str = "paper"
    num_layers: int = 1

    def kernel(
        self,
        key: PRNGKeyArray,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        *,
        role: str = "",
        projections: tuple[int, ...] = (),
        cross: bool = False,
    ) -> Float[Array, "..."]:
        """A kernel `[*in_shape, *out_shape]`; see `Map` for the rest. Raises ValueError for an unknown scheme."""
        scheme = choose("model.initializer", self.scheme, SCHEMES)
        inputs, outputs = math.prod(in_shape), math.prod(out_shape)
        of = Map(inputs, outputs, self.num_layers, projections, role, cross, out_shape[-1])
        return scheme.draw(key, in_shape + out_shape) * jnp.float32(scheme.deviation(of))

    def table(self, key: PRNGKeyArray, shape: tuple[int, int], table: str, d_model: int) -> Float[Array, "rows width"]:
        """A table of vectors: tokens, positions, token_types, or the bias of a relative position."""
        scheme = choose("model.initializer", self.scheme, SCHEMES)
        return scheme.draw_table(key, shape) * jnp.float32(scheme.tables(table, d_model))


PAPER = Initializer()
