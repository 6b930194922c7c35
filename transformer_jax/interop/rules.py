"""How parameters here follow from the tensors of another implementation, and those from them: a table of names.

A rule names one tensor of theirs and the parameters of ours that it holds, by layer (`nn/layer_names.py`), `{}` being
the layer's number: `Rule("h.{}.attn.c_attn.weight", ("decoder/{}/self_attention/query/kernel", ...), "conv1d")`.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from transformer_jax.nn.layer_names import slices_by_layer
from transformer_jax.nn.parameters import named_parameters, parameter_axes

Form = Literal["linear", "conv1d", "heads", "plain", "row", "convolution"]
"""How a tensor is laid out.

linear   [outputs, inputs], as in PyTorch; several maps are one below the other
conv1d   [inputs, outputs], as in GPT-2; several maps are side by side
heads    as linear, but the maps of each head lie together, as in GPT-NeoX
plain    as here
row      [1, ...], as here behind that
convolution  [outputs, channels, ...], as in PyTorch; behind that a picture's height and width, or time; biases as here
"""
NUMBER = re.compile(r"(?<=[/.])\d+(?=[/.])")
STACKED = re.compile(r"^(encoder|decoder)/(\d+)/")
LISTED = 3
"""Names that an error lists."""


class Rule(NamedTuple):
    """One tensor of theirs, and the parameters of ours that it holds."""

    theirs: str
    ours: tuple[str, ...]
    form: Form = "linear"


def linear(theirs: str, *ours: str, form: Form = "linear") -> list[Rule]:
    """The rules of a linear map, or of several in one, with their biases where they have some."""
    return [
        Rule(f"{theirs}.weight", tuple(f"{name}/kernel" for name in ours), form),
        Rule(f"{theirs}.bias", tuple(f"{name}/bias" for name in ours), form),
    ]


def norm(theirs: str, ours: str) -> list[Rule]:
    """The rules of a norm, with its bias where it has one."""
    return [Rule(f"{theirs}.weight", (f"{ours}/scale",)), Rule(f"{theirs}.bias", (f"{ours}/bias",))]


def attention(theirs: str, ours: str, maps: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj")) -> list[Rule]:
    """The rules of an attention whose maps are called so."""
    names = ("query", "key", "value", "output")
    pairs = zip(maps, names, strict=True)
    return [rule for their, our in pairs for rule in linear(f"{theirs}.{their}", f"{ours}/{our}")]


class Layout(NamedTuple):
    """A tensor of theirs in a model of some size: its rule, the parameters by layer that it holds, its shape."""

    rule: Rule
    ours: tuple[str, ...]
    shape: tuple[int, ...]


class Shapes:
    """The parameters of a model: shapes without the rows that pad vocabularies, and where those of each layer are."""

    def __init__(self, abstract: Any, unpadded: Any):
        self.axes = parameter_axes(abstract)
        self.padded = {name: tuple(value.shape) for name, value in named_parameters(abstract).items()}
        whole = {name: tuple(value.shape) for name, value in named_parameters(unpadded).items()}
        self.slices = slices_by_layer(whole)
        self.shapes = {each: whole[name][len(place) :] for each, (name, place) in self.slices.items()}

    def inputs(self, each: str) -> int:
        """The size of the input of a linear map, 1 of anything else."""
        name, place = self.slices[each]
        if not name.endswith("/kernel"):
            return 1
        dimensions = 2 if self.axes[name][len(place)] == "heads" else 1
        return math.prod(self.shapes[each][:dimensions])


def lay_out(rules: Iterable[Rule], shapes: Shapes, family: str) -> dict[str, Layout]:
    """The tensors of a model by name; ValueError for parameters that have no place in the family's."""
    known = {ours: rule for rule in rules for ours in rule.ours}
    layout: dict[str, Layout] = {}
    homeless = []
    for each in shapes.shapes:
        numbered = STACKED.match(each)
        number = numbered[2] if numbered else ""
        rule = known.get(STACKED.sub(r"\1/{}/", each))
        names = () if rule is None else tuple(ours.format(number) for ours in rule.ours)
        if rule is None or not all(name in shapes.shapes for name in names):
            homeless.append(each)
        else:
            layout[rule.theirs.format(number)] = Layout(rule, names, _their_shape(rule, names, shapes))
    if homeless:
        raise ValueError(f"{family} has no place for the parameters {some(homeless)}")
    return layout


def _their_shape(rule: Rule, names: Sequence[str], shapes: Shapes) -> tuple[int, ...]:
    if rule.form in ("plain", "row"):
        shape = shapes.shapes[names[0]]
        return (1, *shape) if rule.form == "row" else shape
    if rule.form == "convolution":
        shape = shapes.shapes[names[0]]
        return (*reversed(shape[-2:]), *shape[:-2])
    inputs = shapes.inputs(names[0])
    outputs = sum(math.prod(shapes.shapes[name]) // inputs for name in names)
    if not names[0].endswith("/kernel"):
        return (outputs,)
    return (inputs, outputs) if rule.form == "conv1d" else (outputs, inputs)


def split(layout: Layout, tensor: np.ndarray, shapes: Shapes) -> dict[str, np.ndarray]:
    """The parameters that a tensor holds, as views of it."""
    wanted = [shapes.shapes[name] for name in layout.ours]
    form = layout.rule.form
    if form in ("plain", "row"):
        return {layout.ours[0]: tensor.reshape(wanted[0])}
    if form == "convolution":
        return {layout.ours[0]: tensor.transpose(*range(2, tensor.ndim), 1, 0) if tensor.ndim > 1 else tensor}
    matrix = tensor if form == "conv1d" else tensor.T
    if form == "heads":
        heads, size = wanted[0][-2:]
        matrix = matrix.reshape(*matrix.shape[:-1], heads, len(wanted), size)
        return {name: matrix[..., i, :].reshape(wanted[i]) for i, name in enumerate(layout.ours)}
    inputs = shapes.inputs(layout.ours[0])
    ends = np.cumsum([math.prod(shape) // inputs for shape in wanted])[:-1]
    parts = np.split(matrix, ends.tolist(), axis=-1)
    return {name: part.reshape(shape) for name, part, shape in zip(layout.ours, parts, wanted, strict=True)}


def join(layout: Layout, arrays: Sequence[np.ndarray], shapes: Shapes) -> np.ndarray:
    """The inverse of `split`."""
    form = layout.rule.form
    if form in ("plain", "row"):
        return arrays[0].reshape(layout.shape)
    if form == "convolution":
        last = arrays[0].ndim - 1
        return arrays[0].transpose(last, last - 1, *range(last - 1)) if last else arrays[0]
    rows = (shapes.inputs(layout.ours[0]),) if layout.ours[0].endswith("/kernel") else ()
    if form == "heads":
        matrix = np.stack([array.reshape(*rows, *array.shape[-2:]) for array in arrays], axis=-2).reshape(*rows, -1)
    else:
        matrix = np.concatenate([array.reshape(*rows, -1) for array in arrays], axis=-1)
    return matrix if form == "conv1d" else matrix.T


def check_tensors(
    layout: Mapping[str, Layout], tensors: Mapping[str, np.ndarray], known: Collection[str], where: str
) -> list[str]:
    """The tensors that the layout does not need; ValueError for missing, misshapen and unknown ones.

    `known` has the names of tensors, numbers replaced by `{}`, that may be there without being needed.
    """
    missing = sorted(layout.keys() - tensors.keys())
    over = sorted(tensors.keys() - layout.keys())
    unknown = [name for name in over if pattern_of(name) not in known]
    shapes = {name: (tensors[name].shape, of.shape) for name, of in layout.items() if name in tensors}
    misshapen = [f"{name} {found}, not {wanted}" for name, (found, wanted) in shapes.items() if found != wanted]
    kinds = [f"{name} ({tensors[name].dtype})" for name in shapes if tensors[name].dtype.kind in "iub"]
    problems = {
        "lacks": missing,
        "has beside what is known": unknown,
        "misshapes": misshapen,
        "has no floats in": kinds,
    }
    if found := [f"{what} {some(names)}" for what, names in problems.items() if names]:
        raise ValueError(f"{where} {' and '.join(found)}")
    return over


def pattern_of(name: str) -> str:
    """A name of theirs with `{}` for its numbers."""
    return NUMBER.sub("{}", name)


def some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
