"""Position encodings: one class for each kind, chosen by the field `model.positions`.

A kind may add something to the vectors in front of a stack, rotate queries and keys, and add a bias to attention
scores. A new kind overrides those methods of `Position` that it needs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt, Le
from flax import nnx
from jaxtyping import Array, Float, Int

from transformer_jax.nn.initializers import Initializer
from transformer_jax.nn.rotary_scaling import RotaryScaling
from transformer_jax.parallel.axes import constrain

Vectors = Float[Array, "batch length d_model"]
Heads = Float[Array, "batch length heads head_dim"]
PositionIds = Int[Array, "#batch length"]
"""The position of every token, from 0."""
KeyIds = Int[Array, "#batch key"]
Bias = Float[Array, "#batch heads query key"]
Arrays = Mapping[str, Array]
"""The parameters of a kind of position by name."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that a kind of position may need."""

    d_model: int
    num_heads: int
    head_dim: int
    max_length: int
    """Positions that a table has."""
    causal: bool
    """Whether tokens see only what stands before them."""


@dataclass(frozen=True)
class Position:
    """A kind of position; by default each method does nothing."""

    kinds: ClassVar[Mapping[str, type["Position"]]]
    """The kinds by name, as the command line has them."""
    of_patches: ClassVar[bool] = False
    """Whether positions are places in a grid of patches, and no text has them."""

    def reach(self, sizes: Sizes) -> int | None:
        """The number of positions that there are; None: any number."""
        return None

    def input_parameters(self, sizes: Sizes, initializer: Initializer, rngs: nnx.Rngs) -> dict[str, nnx.Param]:
        """The parameters of `add`, with named axes (`nnx.Param(..., axes=...)`)."""
        return {}

    def attention_parameters(self, sizes: Sizes, initializer: Initializer, rngs: nnx.Rngs) -> dict[str, nnx.Param]:
        """The parameters of `tables` and `bias`, which the layers of a stack share."""
        return {}

    def add(self, x: Vectors, ids: PositionIds, parameters: Arrays) -> Vectors:
        """The vectors of tokens, with their positions added."""
        return x

    def tables(self, ids: PositionIds, sizes: Sizes, parameters: Arrays) -> Any:
        """Arrays for `rotate`, computed once for all layers."""
        return None

    def rotate(self, x: Heads, tables: Any, role: str) -> Heads:
        """Queries or keys, rotated by their positions; `role` is query or key."""
        return x

    def bias(self, query: PositionIds, key: KeyIds, sizes: Sizes, parameters: Arrays) -> Bias | None:
        """A bias added to the attention scores of queries and keys at these positions."""
        return None

    def grid(self, rows: int, columns: int, first: int) -> PositionIds:
        """The positions of `first` tokens and, behind them, of a picture's patches, row by row.

        Places in a grid are `row * GRID + column`, and -1 of the tokens in front.
        """
        if not self.of_patches:
            return jnp.arange(first + rows * columns, dtype=jnp.int32)[None]
        patches = np.arange(rows)[:, None] * GRID + np.arange(columns)
        return jnp.asarray(np.concatenate([np.full(first, -1), patches.reshape(-1)]), jnp.int32)[None]

    def resized(self, parameters: Arrays, old: tuple[int, int], new: tuple[int, int], first: int) -> Arrays:
        """The parameters of `add` for another grid of patches (rows, columns) than that they were made for."""
        return parameters


@dataclass(frozen=True)
class NoPositions(Position):
    """No position encoding: a causal decoder learns positions from what each token may see (Haviv et al. 2022)."""


@dataclass(frozen=True)
class Sinusoidal(Position):
    """The paper's fixed sinusoids, added to embeddings (Vaswani et al. 2017, section 3.5)."""

    interleaved: bool = True
    """Sines and cosines take turns, as printed in the paper; otherwise all sines stand before all cosines (Marian,
    Whisper, Tensor2Tensor)."""
    inclusive: bool = False
    """The last of the n wavelengths is 10000 x 2 pi itself, with exponents i / (n - 1) in place of the paper's i / n
    (Tensor2Tensor, fairseq, Whisper)."""
    offset: Annotated[int, Ge(0), Le(2**20)] = 0
    """Added to every position (fairseq, M2M-100: 2)."""

    def add(self, x: Vectors, ids: PositionIds, parameters: Arrays) -> Vectors:
        """The vectors plus the sinusoids of their positions."""
        ids = jnp.broadcast_to(ids, x.shape[:2])
        ids = ids + self.offset if self.offset else ids
        table = sinusoids(ids, x.shape[-1], interleaved=self.interleaved, inclusive=self.inclusive)
        return x + table.astype(x.dtype)


@dataclass(frozen=True)
class Learned(Position):
    """A trained vector for each of `max_length` positions, added to embeddings (Gehring et al. 2017)."""

    offset: Annotated[int, Ge(0), Le(2**20)] = 0
    """Rows of the table in front of the first position, as RoBERTa (2) and BART (2) have them."""
    antialias: bool = False
    """Of patches: a table is resized through a filter, as in DINOv2 with registers."""

    def reach(self, sizes: Sizes) -> int | None:
        """As far as the table goes."""
        return sizes.max_length

    def input_parameters(self, sizes: Sizes, initializer: Initializer, rngs: nnx.Rngs) -> dict[str, nnx.Param]:
        """The table `[offset + max_length, d_model]`."""
        shape = (self.offset + sizes.max_length, sizes.d_model)
        return {
            "table": nnx.Param(
                initializer.table(rngs.params(), shape, "positions", sizes.d_model), axes=("positions", "embed")
            )
        }

    def add(self, x: Vectors, ids: PositionIds, parameters: Arrays) -> Vectors:
        """The vectors plus the table's rows of their positions."""
        table = constrain(parameters["table"], ("positions", "replicated"))
        # Padding may stand past the end; it is masked, and must be finite for that.
        rows = jnp.take(table, jnp.broadcast_to(ids, x.shape[:2]) + self.offset, axis=0, mode="clip")
        return x + rows.astype(x.dtype)

    def resized(self, parameters: Arrays, old: tuple[int, int], new: tuple[int, int], first: int) -> Arrays:
        """The table of another grid, interpolated (Dosovitskiy et al. 2021, section 3.2)."""
        if old == new:
            return parameters
        table, first = parameters["table"], self.offset + first
        grid = table[first:].reshape(*old, -1)
        if self.antialias:
            grid = jax.image.resize(grid, (*new, grid.shape[-1]), "cubic")
        else:
            grid = jnp.einsum("ir,jc,rcd->ijd", bicubic(old[0], new[0]), bicubic(old[1], new[1]), grid)
        return {"table": jnp.concatenate([table[:first], grid.reshape(-1, table.shape[1])])}


@dataclass(frozen=True)
class Sinusoidal2D(Position):
    """Sinusoids of a patch's column and row, each in half of the vector, added to patches; other tokens have none.

    As in github.com/google-research/big_vision.
    """

    of_patches: ClassVar[bool] = True

    def add(self, x: Vectors, ids: PositionIds, parameters: Arrays) -> Vectors:
        """The vectors plus the sinusoids of their places; ValueError for a width that 4 does not divide."""
        row, column = jnp.divmod(ids, GRID)
        half = x.shape[-1] // 2
        halves = [sinusoids(one, half, interleaved=False, inclusive=True) for one in (column, row)]
        table = jnp.where(ids[..., None] < 0, 0, jnp.concatenate(halves, axis=-1))
        return x + jnp.broadcast_to(table.astype(x.dtype), x.shape)


@dataclass(frozen=True)
class Rotary(Position):
    """Queries and keys rotated by their positions, so that scores depend on distances (Su et al. 2021, "RoFormer").

    The n rotated elements of a head form pairs, and pair i is rotated by the angle `position / base^(2i/n)`. Element i
    is paired with element i + n/2, as Llama's published weights expect, or with its neighbour, as in the paper; the
    two differ by an order of the elements.
    """

    base: Annotated[float, Gt(1)] = 10_000.0
    """The longest wavelength is 2 pi times this."""
    fraction: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of a head's elements that are rotated, the first ones (GPT-NeoX: 0.25)."""
    interleaved: bool = False
    """Neighbours form pairs, as in the paper and in GPT-J."""
    scaling: RotaryScaling = field(default_factory=RotaryScaling)
    """How the angles change for contexts longer than the model was trained on."""

    def places(self, ids: PositionIds) -> tuple[PositionIds, ...]:
        """The positions that rotate the pairs, each an equal part of them."""
        return (ids,)

    def tables(self, ids: PositionIds, sizes: Sizes, parameters: Arrays) -> tuple[Array, Array]:
        """Sines and cosines `[#batch, length, 1, pairs]` of all angles; ValueError for a head without such pairs."""
        size, places = int(sizes.head_dim * self.fraction), self.places(ids)
        if size % (2 * len(places)) or not size:
            raise ValueError(f"rotary positions need a head_dim that {2 * len(places)} divides, not {size}")
        frequencies, magnitude = self.scaling.frequencies(self.base, size // len(places), ids)
        turns = [one[..., None, None].astype(jnp.float32) * frequencies[:, None, None] for one in places]
        angles = jnp.concatenate(turns, axis=-1)
        return jnp.sin(angles) * magnitude, jnp.cos(angles) * magnitude

    def rotate(self, x: Heads, tables: Any, role: str) -> Heads:
        """Queries or keys, with their pairs rotated."""
        sine, cosine = tables
        size = 2 * sine.shape[-1]
        rotated, rest = x[..., :size].astype(jnp.float32), x[..., size:]
        if self.interleaved:
            first, second = rotated[..., 0::2], rotated[..., 1::2]
        else:
            first, second = jnp.split(rotated, 2, axis=-1)
        pairs = [first * cosine - second * sine, second * cosine + first * sine]
        join = jnp.stack if self.interleaved else jnp.concatenate
        rotated = join(pairs, axis=-1).reshape(rotated.shape)
        return jnp.concatenate([rotated.astype(x.dtype), rest], axis=-1) if rest.shape[-1] else rotated.astype(x.dtype)


@dataclass(frozen=True)
class Rotary2D(Rotary):
    """Queries and keys of patches: half of the pairs rotated by the row, half by the column; other tokens by nothing.

    The formula is that of Qwen2-VL (Wang et al. 2024, section 2.1).
    """

    of_patches: ClassVar[bool] = True

    def places(self, ids: PositionIds) -> tuple[PositionIds, ...]:
        """The rows and the columns of patches."""
        return jnp.divmod(jnp.maximum(ids, 0), GRID)


@dataclass(frozen=True)
class Relative(Position):
    """A trained bias of the scores for each head and distance (Raffel et al. 2020, "T5", section 2.1).

    Half of the buckets are one distance each, the others ever wider up to `max_distance`, beyond which all share the
    last. Where tokens see only the past, it has all buckets; otherwise past and future have half each.
    """

    buckets: int = 32
    """Distances that are told apart."""
    max_distance: int = 128
    """Where the last bucket begins."""

    def attention_parameters(self, sizes: Sizes, initializer: Initializer, rngs: nnx.Rngs) -> dict[str, nnx.Param]:
        """The biases `[buckets, heads]`."""
        table = initializer.table(rngs.params(), (self.buckets, sizes.num_heads), "bias", sizes.d_model)
        return {"table": nnx.Param(table, axes=("buckets", "heads"))}

    def bias(self, query: PositionIds, key: KeyIds, sizes: Sizes, parameters: Arrays) -> Bias | None:
        """The bias of every distance's bucket."""
        past = query[:, :, None] - key[:, None, :]
        buckets = self.buckets if sizes.causal else self.buckets // 2
        start = jnp.zeros_like(past) if sizes.causal else jnp.where(past < 0, buckets, 0)
        distance = jnp.maximum(past, 0) if sizes.causal else jnp.abs(past)
        exact = buckets // 2
        way = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(self.max_distance / exact)
        wide = jnp.minimum(exact + (way * (buckets - exact)).astype(jnp.int32), buckets - 1)
        bucket = start + jnp.where(distance < exact, distance, wide)
        return jnp.moveaxis(jnp.take(parameters["table"], bucket, axis=0), -1, 1)


@dataclass(frozen=True)
class Alibi(Position):
    """Scores fall linearly with distance, in each head at a slope of its own (Press et al. 2022, section 3)."""

    def bias(self, query: PositionIds, key: KeyIds, sizes: Sizes, parameters: Arrays) -> Bias | None:
        """Minus the distance times the head's slope."""
        distance = jnp.abs(query[:, :, None] - key[:, None, :]).astype(jnp.float32)
        return distance[:, None] * -jnp.asarray(alibi_slopes(sizes.num_heads)).reshape(1, -1, 1, 1)


Position.kinds = {
    "sinusoidal": Sinusoidal,
    "sinusoidal_2d": Sinusoidal2D,
    "learned": Learned,
    "rotary": Rotary,
    "rotary_2d": Rotary2D,
    "relative": Relative,
    "alibi": Alibi,
    "none": NoPositions,
}


class PositionParameters(nnx.Module):
    """The parameters of a kind of position, each under its own name."""

    def __init__(self, parameters: Mapping[str, nnx.Param]):
        for name, parameter in parameters.items():
            setattr(self, name, parameter)

    @classmethod
    def of(cls, parameters: Mapping[str, nnx.Param]) -> "PositionParameters | None":
        """The module of these parameters; None without any."""
        return cls(parameters) if parameters else None

    @staticmethod
    def arrays(held: "PositionParameters | None") -> dict[str, Array]:
        """The arrays by name; none where a kind has no parameters."""
        attributes = {} if held is None else vars(held)
        return {name: value[...] for name, value in attributes.items() if isinstance(value, nnx.Variable)}


class TokenPositions:
    """The positions of a call's tokens, and the arrays that the layers of a stack share.

    `cached` says that keys and values come from a cache: which positions these have only the layer's cache knows.
    """

    def __init__(self, kind: Position, ids: PositionIds, sizes: Sizes, parameters: Arrays, *, cached: bool = False):
        self.kind, self.ids, self.sizes, self.parameters = kind, ids, sizes, parameters
        self.tables = kind.tables(ids, sizes, parameters)
        self.own_bias = None if cached else kind.bias(ids, ids, sizes, parameters)

    def rotate(self, x: Heads, role: str) -> Heads:
        """Queries or keys of the call's tokens, rotated by their positions; `role` is query or key."""
        return self.kind.rotate(x, self.tables, role)

    def bias(self, key: KeyIds | None = None) -> Bias | None:
        """The bias of scores with keys at these positions; None: with the call's own tokens."""
        return self.own_bias if key is None else self.kind.bias(self.ids, key, self.sizes, self.parameters)


def sinusoids(
    ids: Int[Array, "*shape"], d_model: int, *, interleaved: bool = True, inclusive: bool = False
) -> Float[Array, "*shape d_model"]:
    """Sinusoids of Vaswani et al. 2017, section 3.5, sine and cosine interleaved as printed there.

    `PE[2i] = sin(position / 10000^(2i/d_model))` and `PE[2i+1] = cos(position / 10000^(2i/d_model))`; see `Sinusoidal`
    for the other forms. Raises ValueError when d_model is odd.
    """
    if d_model % 2:
        raise ValueError(f"sinusoidal positions need an even d_model, not {d_model}")
    exponents = jnp.arange(0, d_model, 2, dtype=jnp.float32) / (d_model - 2 * inclusive)
    wavelengths = 10_000.0**exponents
    angles = ids[..., None].astype(jnp.float32) / wavelengths.reshape((1,) * ids.ndim + (-1,))
    if not interleaved:
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*ids.shape, d_model)


GRID = 2**15
"""Most columns of a grid of patches."""


def bicubic(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """The matrix that resizes by cubic convolution (Keys 1981, a = -0.75) without a filter, edge elements repeated.

    As PyTorch's `interpolate` in the mode bicubic, with which published models are resized.
    """
    a, centres, matrix = -0.75, (np.arange(new) + 0.5) * old / new - 0.5, np.zeros((new, old), np.float32)
    for tap in range(-1, 3):
        place = np.floor(centres) + tap
        x = np.abs(centres - place)
        weights = np.where(x <= 1, ((a + 2) * x - (a + 3)) * x**2 + 1, a * (((x - 5) * x + 8) * x - 4))
        np.add.at(matrix, (np.arange(new), np.clip(place, 0, old - 1).astype(int)), weights)
    return matrix


def alibi_slopes(num_heads: int) -> Float[np.ndarray, " heads"]:
    """2^(-8/n), 2^(-16/n), ... for n heads; where n is no power of two, those of the power below and every other one
    of twice that power (github.com/ofirpress/attention_with_linear_biases)."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    return np.array(slopes + between[: num_heads - power], np.float32)
