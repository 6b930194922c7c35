"""A trained model as people use it: texts in, batches over all devices, results back in order."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float

from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.decoding.constraints import TextRules
from transformer_jax.models.config import Encoded
from transformer_jax.models.encoder_only import mean_vector
from transformer_jax.parallel.axes import num_shards, sharding
from transformer_jax.parallel.distributed import to_host
from transformer_jax.tasks.sequences import array_width, padded


@dataclass(eq=False, repr=False)
class Predictor:
    """A model with its tokenizer; `model, tokenizer = predictor` gives both. A task's own adds `predict`.

    The rows of a batch are sharded over the devices on which the model's parameters lie. If these belong to several
    processes, all make the same calls: each works on its rows, and all get all results.
    """

    model: Any
    tokenizer: Any
    _: KW_ONLY
    max_length: int
    tokens_per_batch: int = 8192
    """Tokens in one batch."""

    def __post_init__(self) -> None:
        where = getattr(jax.tree.leaves(self.model)[0], "sharding", None)
        mesh = where.mesh if isinstance(where, NamedSharding) else None
        self.mesh = mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None
        """The mesh of several devices on which the model's parameters lie, if any."""
        self.row_multiple = 1 if self.mesh is None else num_shards("batch", self.mesh)
        """The number of shards of a batch's rows."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.tokenizer))

    def embed(self, items: Sequence[Any]) -> list[list[float]]:
        """A vector for every item: the mean of the vectors after the encoder's last layer, special tokens included."""
        vectors = self.for_each(_mean_vectors, *self.inputs_of(items), vectors_of=self.vectors_of)
        return [vector.tolist() for vector in vectors]

    def inputs_of(self, items: Sequence[Any]) -> Sequence[Sequence[Any]]:
        """The columns that `vectors_of` reads: the tokens of texts."""
        return [self.encoded(items)]

    @staticmethod
    def vectors_of(model: Any, tokens: Array, lengths: Array) -> Encoded:
        """The model's vectors `[rows, length, d_model]` of right-padded tokens, and the lengths that are left."""
        return model.encode(tokens, lengths=lengths)

    def encoded(self, texts: Sequence[Any]) -> list[list[int]]:
        """The tokens of every text as the model reads them; ValueError for a text that is too long."""
        bos_id, eos_id = self.tokenizer.bos_id, self.tokenizer.eos_id
        return self.refuse_long([[bos_id, *ids, eos_id] for ids in self.tokenizer.encode_batch(listed(texts))])

    def refuse_long(self, encoded: list[list[int]]) -> list[list[int]]:
        """The token ids of lines; ValueError for a line of more than `max_length`: nothing is cut off silently."""
        for line, ids in enumerate(encoded, 1):
            if len(ids) > self.max_length:
                raise ValueError(f"line {line} has {len(ids)} tokens, more than the {self.max_length} of the model")
        return encoded

    def for_each(self, program: Callable[..., Any], *columns: Sequence[Any], **settings: Any) -> list[Any]:
        """Calls `program(model, *arrays, **settings)`, a compiled function, on batches; returns a row for every item.

        A row is an array or, of a program with several outputs, a tuple of them. A column has a list of tokens for
        every item, which becomes tokens `[rows, width]`, padded on the right, and lengths `[rows]`; or a number, which
        becomes an array `[rows]`. The first column has tokens.
        """
        lists = [column for column in columns if len(column) and np.ndim(column[0])]
        sizes = [max(map(len, items)) for items in zip(*lists, strict=True)]
        results: list[Any] = [None] * len(columns[0])
        for items, width, rows in self.groups(sizes):
            arrays: list[np.ndarray] = []
            for column in columns:
                chosen = [column[item] for item in items]
                if not np.ndim(chosen[0]):
                    arrays.append(np.array(chosen + [0] * (rows - len(items)), np.int32))
                else:
                    arrays += padded(chosen, rows, width)
            outputs = to_host(jax.tree.leaves(self.run(program, *arrays, **settings)))
            for row, item in enumerate(items):
                results[item] = outputs[0][row] if len(outputs) == 1 else tuple(array[row] for array in outputs)
        return results

    def for_all(
        self, program: Callable[..., Any], items: Iterable[Sequence[Any]], most: int, **settings: Any
    ) -> list[Any]:
        """The same for items of arrays and numbers, of one shape each; `most` at a time, which are read when needed.

        There can be more rows than items; what fills them is 0.
        """
        results: list[Any] = []
        iterator, rows, most = iter(items), 0, most + -most % self.row_multiple
        while part := list(itertools.islice(iterator, most)):
            rows = max(rows, min(most, 1 << (len(part) - 1).bit_length()))
            rows += -rows % self.row_multiple
            arrays = [np.stack(column) for column in zip(*part, strict=True)]
            filled = [np.pad(array, ((0, rows - len(part)), *[(0, 0)] * (array.ndim - 1))) for array in arrays]
            outputs = [array[: len(part)] for array in to_host(jax.tree.leaves(self.run(program, *filled, **settings)))]
            results.extend(outputs[0] if len(outputs) == 1 else zip(*outputs, strict=True))
        return results

    def groups(self, sizes: Sequence[int], extra: int = 0) -> Iterator[tuple[list[int], int, int]]:
        """Indices of sequences of similar sizes with the width and the rows of their array, shortest first.

        There can be more rows than sequences. There are as many as `most_rows` says, with `extra` tokens more in each,
        unless one row for each device is more already.
        """
        widths: dict[int, list[int]] = {}
        for index in sorted(range(len(sizes)), key=sizes.__getitem__):
            widths.setdefault(array_width(sizes[index]), []).append(index)
        for width, members in widths.items():
            rows = min(max(self.most_rows(width, extra), 1), array_width(len(members)))
            rows += -rows % self.row_multiple
            for start in range(0, len(members), rows):
                yield members[start : start + rows], width, rows

    def most_rows(self, width: int, extra: int = 0) -> int:
        """The rows of a batch: width times rows is at most `tokens_per_batch`."""
        return self.tokens_per_batch // (width + extra)

    def run(self, program: Callable[..., Any], *arrays: Any, **settings: Any) -> Any:
        """Calls `program(model, *arrays, **settings)` on the model's devices, which share the rows of NumPy arrays."""
        if self.mesh is None:
            return program(self.model, *arrays, **settings)
        with jax.set_mesh(self.mesh):
            return program(self.model, *map(self.shard, arrays), **settings)

    def shard(self, array: Any) -> Any:
        """A NumPy array on the mesh, its rows sharded if the devices divide them; anything else as it is."""
        if self.mesh is None or not isinstance(array, np.ndarray):
            return array
        divisible = array.ndim > 0 and len(array) % self.row_multiple == 0
        where = sharding(("batch",) if divisible else (), self.mesh)
        return jax.make_array_from_callback(array.shape, where, lambda index: array[index])


@dataclass(frozen=True)
class AttentionMap:
    """One kind of attention, in all layers and heads, for one input; ValueError where weights and tokens do not fit."""

    title: str
    """Such as Cross-attention."""
    weights: Float[np.ndarray, "layers heads queries keys"]
    """Every row, a query's weights over the keys, sums to one."""
    queries: list[str]
    """The tokens that attend."""
    keys: list[str]
    """The tokens that are attended to."""
    layers: Sequence[int] = ()
    """Numbers of the layers, from 1 on; empty: of all that the model has."""
    heads: Sequence[int] = ()
    """The same of the heads."""

    def __post_init__(self) -> None:
        if self.weights.ndim != 4 or self.weights.shape[2:] != (len(self.queries), len(self.keys)):
            raise ValueError(
                f"{self.title} has shape {self.weights.shape}; it must be [layers, heads, {len(self.queries)}, "
                f"{len(self.keys)}]: a row for each query token and a column for each key token"
            )
        for name, count in zip(("layers", "heads"), self.weights.shape, strict=False):
            object.__setattr__(self, name, tuple(getattr(self, name) or range(1, count + 1)))


def forbidden_tokens(tokenizer: Tokenizer, rules: TextRules, *end_ids: int) -> tuple[int, ...]:
    """The tokens that are never generated."""
    special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id, *map(tokenizer.token_id, rules.suppressed)}
    return tuple(sorted(special - {*end_ids, -1}))


def decoded(items: Sequence[Any], decode: Callable[[Any], Any], kind: str, first: int = 1) -> Iterator[Any]:
    """`decode` of every item, or of the file that it names; ValueError if that fails.

    The message has the number of the item, from `first` on, if there are several, and the file's name. TypeError for a
    single item that is in no list.
    """
    if isinstance(items, str | bytes):
        raise TypeError(f"give a list of {kind}s, as in [{kind}], not one")
    for line, item in enumerate(items, first):
        try:
            yield decode(Path(item) if isinstance(item, str | os.PathLike) else item)
        except (OSError, ValueError) as error:
            where = f"line {line}: " if len(items) > 1 or first > 1 else ""
            name = os.fspath(item) if isinstance(item, str | os.PathLike) else "it"
            why = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else f"is {error}"
            raise ValueError(f"{where}{name} {why}") from error


def listed(lines: Sequence[str]) -> list[str]:
    """The lines; TypeError for a single string, which would be read letter by letter, and for anything but text."""
    if isinstance(lines, str):
        raise TypeError("give a list of lines, as in [line], not one string")
    for line in lines:
        if not isinstance(line, str):
            raise TypeError(f"every line is a text, not {type(line).__name__}: {str(line)[:60]}")
    return list(lines)


@partial(jax.jit, static_argnames="vectors_of")
def _mean_vectors(model: Any, *arrays: Array, vectors_of: Callable[..., Encoded]) -> Array:
    encoded = vectors_of(model, *arrays)
    return mean_vector(encoded.vectors, encoded.lengths)
