"""Table 1 of "Attention Is All You Need" (Vaswani et al. 2017), measured: kinds of layers over the length of a text.

A measurement is the forward and backward pass of one layer over one text in float32, compiled: the median time of some
calls, and temporary memory by XLA's plan of the program. Attention is the project's own, with its four maps; of more
than 256 keys its weights are computed again in the backward pass. The recurrent layer is a tanh of two maps of the
present vector and the last state, the convolutional one a plain convolution.

Restricted self-attention is there twice. `window` hides the scores outside of the neighbourhood by a mask, as layers of
`model.pattern local` do; without a fused kernel, such as on CPUs, all of them are computed. `blocks` computes those of
blocks of r queries to the three blocks of keys around them, which is what the paper's complexity counts.
"""

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transformer_jax.analysis.drawing import BLUE, INK, MUTED, ORANGE, new_figure, quiet, save
from transformer_jax.nn.attention import dot_product_attention
from transformer_jax.nn.mask import EVERYTHING, AttentionMask

Vectors = Float[Array, "length width"]
Weights = Mapping[str, Array]
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
COLORS = (BLUE, ORANGE, "#16a34a", "#9333ea", MUTED)


@dataclass(frozen=True)
class Sizes:
    """What is measured; letters as in the paper."""

    lengths: tuple[int, ...] = LENGTHS
    """n."""
    width: int = 64
    """d."""
    heads: int = 1
    kernel: int = 3
    """k, vectors that a convolution sees."""
    neighbourhood: int = 64
    """r, vectors that restricted attention sees; divides every n."""
    calls: int = 5
    """The most calls of which the median is taken; fewer where they take longer than `seconds` together."""
    seconds: float = 10.0

    def __post_init__(self) -> None:
        if any(length % self.neighbourhood or length < 1 for length in self.lengths):
            raise ValueError(f"lengths are multiples of the neighbourhood {self.neighbourhood}, not {self.lengths}")
        if self.width % self.heads:
            raise ValueError(f"the width {self.width} is not a multiple of {self.heads} heads")


def self_attention(weights: Weights, x: Vectors, mask: AttentionMask = EVERYTHING) -> Vectors:
    """Every vector sees all others, or what the mask shows."""
    query, key, value = _heads(weights, x)
    mixed = dot_product_attention(query[None], key[None], value[None], mask)[0]
    return jnp.einsum("nhe,hed->nd", mixed, weights["output"])


def attention_in_blocks(weights: Weights, x: Vectors, *, size: int) -> Vectors:
    """Every vector sees `size / 2` vectors to each side, of which blocks of `size` are at hand for all of a block."""
    length, count = len(x), len(x) // size
    query, key, value = (part.reshape(count, size, *part.shape[1:]) for part in _heads(weights, x))

    def around(blocks: Array) -> Array:
        padded = jnp.pad(blocks, ((1, 1), *((0, 0) for _ in blocks.shape[1:])))
        return jnp.concatenate([padded[:-2], padded[1:-1], padded[2:]], axis=1)

    block = jnp.arange(count, dtype=jnp.int32)[:, None] * size
    at, keys_at = block + jnp.arange(size)[None], block + jnp.arange(-size, 2 * size)[None]
    inside = (keys_at >= 0) & (keys_at < length)  # what stands outside of the text is a segment that no query has
    mask = AttentionMask(
        window=(size // 2, size // 2),
        query_positions=at,
        key_positions=keys_at,
        query_segments=jnp.ones_like(at),
        key_segments=inside.astype(jnp.int32),
    )
    mixed = dot_product_attention(query, around(key), around(value), mask)
    return jnp.einsum("nhe,hed->nd", mixed.reshape(length, *mixed.shape[2:]), weights["output"])


def recurrent(weights: Weights, x: Vectors) -> Vectors:
    """`h_t = tanh(W x_t + U h_(t-1))`."""

    def step(state: Array, vector: Array) -> tuple[Array, Array]:
        state = jnp.tanh(vector + state @ weights["state"])
        return state, state

    return jax.lax.scan(step, jnp.zeros_like(x[0]), x @ weights["input"])[1]


def convolution(weights: Weights, x: Vectors) -> Vectors:
    """Every vector is a map of the `k` around it."""
    dimensions = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(x[None], weights["kernel"], (1,), "SAME", dimension_numbers=dimensions)[0]


def _heads(weights: Weights, x: Vectors) -> list[Array]:
    return [jnp.einsum("nd,dhe->nhe", x, weights[name]) for name in ("query", "key", "value")]


@dataclass(frozen=True)
class Layer:
    """A row of the table."""

    name: str
    complexity: str
    sequential: str
    path: str
    apply: Callable[[Weights, Vectors], Vectors]
    shapes: Mapping[str, tuple[int, ...]]


def layers(sizes: Sizes) -> list[Layer]:
    """The rows, with the paper's complexity of a layer, sequential operations and longest path."""
    d, heads, near = sizes.width, sizes.heads, sizes.neighbourhood
    maps = dict.fromkeys(("query", "key", "value"), (d, heads, d // heads)) | {"output": (heads, d // heads, d)}
    window = functools.partial(self_attention, mask=AttentionMask(window=(near // 2, near // 2)))
    blocks = functools.partial(attention_in_blocks, size=near)
    restricted = ("O(r n d)", "O(1)", "O(n / r)")
    return [
        Layer("self-attention", "O(n² d)", "O(1)", "O(1)", self_attention, maps),
        Layer("recurrent", "O(n d²)", "O(n)", "O(n)", recurrent, {"input": (d, d), "state": (d, d)}),
        Layer("convolution", "O(k n d²)", "O(1)", "O(log_k n)", convolution, {"kernel": (sizes.kernel, d, d)}),
        Layer("restricted by blocks", *restricted, blocks, maps),
        Layer("restricted by a window", *restricted, window, maps),
    ]


def measure(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """The time and temporary memory of every layer at every length, as they are measured."""
    for length in sizes.lengths:
        for layer in layers(sizes):
            keys = jax.random.split(jax.random.key(0), len(layer.shapes) + 1)
            x = jax.random.normal(keys[0], (length, sizes.width))
            drawn = zip(layer.shapes.items(), keys[1:], strict=True)
            weights = {name: jax.random.normal(key, of) / sizes.width**0.5 for (name, of), key in drawn}
            step = jax.jit(jax.grad(lambda weights, x, layer=layer: jnp.sum(layer.apply(weights, x) ** 2), (0, 1)))
            compiled = step.lower(weights, x).compile()
            planned = compiled.memory_analysis()
            yield {
                "layer": layer.name,
                "n": length,
                "milliseconds": 1e3
                * _seconds(lambda compiled=compiled, weights=weights, x=x: compiled(weights, x), sizes),
                "MiB": planned.temp_size_in_bytes / 2**20 if planned else None,
            }


def _seconds(call: Callable[[], Any], sizes: Sizes) -> float:
    """The median time of a call; the first of all is left out."""
    jax.block_until_ready(call())
    times: list[float] = []
    while len(times) < sizes.calls and sum(times) < sizes.seconds:
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def table(measured: Sequence[Mapping[str, Any]], sizes: Sizes, column: str) -> list[dict[str, Any]]:
    """The rows of one column, with the power of n with which it grows over the last lengths."""
    rows = []
    for layer in layers(sizes):
        found = {line["n"]: line[column] for line in measured if line["layer"] == layer.name}
        paper = {"complexity": layer.complexity, "sequential": layer.sequential, "longest path": layer.path}
        values = {f"n = {length:,}": value for length, value in found.items()}
        rows.append({column: layer.name, **paper, **values, "grows as n^": power(found)})
    return rows


def power(values: Mapping[int, float | None]) -> float | None:
    """The exponent of n between the last length and the third from the end, or what there is of them."""
    known = [(length, value) for length, value in sorted(values.items()) if value][-3:]
    if len(known) < 2:
        return None
    (first, low), (last, high) = known[0], known[-1]
    return math.log(high / low) / math.log(last / first)


def draw(measured: Sequence[Mapping[str, Any]], sizes: Sizes, path: Path) -> Path:
    """Draws time and memory over the length, both axes in powers."""
    from matplotlib.ticker import NullFormatter

    figure = new_figure(10.0, 4.2)
    panels = figure.subplots(1, 2)
    for axes, column in zip(panels, ("milliseconds", "MiB"), strict=True):
        for layer, color in zip(layers(sizes), COLORS, strict=True):
            points = [(line["n"], line[column]) for line in measured if line["layer"] == layer.name and line[column]]
            label = f"{layer.name}, {layer.complexity}"
            style = "o--" if layer.name.endswith("window") else "o-"
            axes.loglog(*zip(*points, strict=True), style, base=2, color=color, markersize=3.5, label=label)
        axes.set_yscale("log", base=10)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(column, color=INK, size=11, loc="left")
        axes.set_xlabel(f"n, of width d = {sizes.width}", color=MUTED, size=9)
        axes.set_xticks(sizes.lengths, [f"{length:,}" for length in sizes.lengths])
        quiet(axes, frame=True)
    panels[0].legend(fontsize=8, frameon=False)
    return save(figure, path)
