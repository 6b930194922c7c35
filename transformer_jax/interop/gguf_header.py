"""GGUF files, read without trust and without copying.

A file is the counts of its tensors and keys, the keys with their values, the name, shape, type and place of every
tensor, and their bytes (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Every length in it is checked
against the bytes that are left before anything of that length is made; tensors are views of the memory-mapped file.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LARGEST_HEADER = 2**26
"""Bytes; the largest vocabularies need a quarter of it."""
MOST_DIMENSIONS = 4
NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
TYPES = {number: np.dtype(name) for number, name in NUMBERS.items()}
"""The types of values, but for these two."""
TEXT, ARRAY = 8, 9
COUNT, LENGTH = TYPES[4], TYPES[10]


class StoredTensor(NamedTuple):
    """A tensor of a file."""

    shape: tuple[int, ...]
    kind: Any
    """Its type, of the package gguf."""
    data: np.ndarray
    """Its bytes, by rows."""

    def values(self) -> np.ndarray:
        """Its numbers."""
        from gguf.quants import dequantize

        return np.asarray(dequantize(self.data, self.kind), np.float32).reshape(self.shape)


def read_gguf(file: Path) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    """The keys and the tensors of a file; ValueError for one that is damaged, hostile or cut off."""
    with file.open("rb") as opened:
        header = _Header(memoryview(opened.read(LARGEST_HEADER)))
    if bytes(header.take(4)) != b"GGUF" or header.number(COUNT) not in (2, 3):
        raise ValueError("it is not of version 2 or 3 of GGUF, with the lowest byte of a number first")
    tensors, keys = header.number(LENGTH), header.number(LENGTH)
    facts = header.unique(keys, lambda: header.value(header.number(COUNT)))
    places = header.unique(tensors, header.tensor)
    alignment = facts.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 2**16:
        raise ValueError(f"general.alignment is a number of bytes, not {alignment!r}")
    begin = header.place + -header.place % alignment
    return facts, _tensors(places, np.memmap(file, np.uint8, mode="r")[begin:])


def _tensors(places: dict[str, tuple[tuple[int, ...], int, int]], data: np.ndarray) -> dict[str, StoredTensor]:
    """The tensors as views, none of which shares a byte with another."""
    found, end = {}, 0
    for name, (shape, number, begin) in sorted(places.items(), key=lambda place: place[1][2]):
        kind, block, size = _kind(name, number)
        if not 0 < len(shape) <= MOST_DIMENSIONS or 0 in shape or shape[-1] % block:
            raise ValueError(f"the tensor {name} of the type {kind.name} cannot have the shape {shape}")
        if begin < end:
            raise ValueError(f"the tensor {name} begins inside of the one before it")
        if (end := begin + math.prod(shape) // block * size) > len(data):
            raise ValueError(f"it is cut off inside of the tensor {name}")
        found[name] = StoredTensor(shape, kind, data[begin:end].reshape(-1, shape[-1] // block * size))
    return {name: found[name] for name in places}


def _kind(name: str, number: int) -> tuple[Any, int, int]:
    """The type of a number, the values and the bytes of its blocks; ValueError for one that is not read."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        kind = GGMLQuantizationType(number)
        block, size = GGML_QUANT_SIZES[kind]
        dequantize(np.zeros((1, size), np.uint8), kind)
    except (KeyError, NotImplementedError, ValueError) as error:
        raise ValueError(f"the tensor {name} is of a type that the package gguf does not read: {error}") from error
    return kind, block, size


class _Header:
    """What is read from the beginning of a file, part by part."""

    def __init__(self, content: memoryview):
        self.content = content
        self.place = 0

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        if count > len(self.content) - self.place:
            raise ValueError(f"its header is cut off, or longer than {LARGEST_HEADER:,} bytes")
        self.place += count
        return self.content[self.place - count : self.place]

    def number(self, kind: np.dtype[Any]) -> int:
        return int.from_bytes(self.take(kind.itemsize), "little")

    def text(self) -> str:
        return str(self.take(self.number(LENGTH)), "utf-8")

    def value(self, kind: int) -> Any:
        """A value of a type; of an array a list."""
        if kind == TEXT:
            return self.text()
        inner = self.number(COUNT) if kind == ARRAY else kind
        count = self.number(LENGTH) if kind == ARRAY else 1
        if kind == ARRAY and inner == TEXT:
            return [self.text() for _ in range(count)]
        if inner not in TYPES:
            raise ValueError(f"a key has a value of the type {inner}, which is not read here")
        values = np.frombuffer(self.take(count * TYPES[inner].itemsize), TYPES[inner]).tolist()
        return values if kind == ARRAY else values[0]

    def tensor(self) -> tuple[tuple[int, ...], int, int]:
        """The shape of a tensor, rows first, the number of its type, and its place behind the header."""
        sizes = np.frombuffer(self.take(self.number(COUNT) * LENGTH.itemsize), LENGTH).tolist()
        return tuple(reversed(sizes)), self.number(COUNT), self.number(LENGTH)

    def unique(self, count: int, read: Any) -> dict[str, Any]:
        """What is read behind each of so many names; ValueError for a name that is there twice."""
        found: dict[str, Any] = {}
        for _ in range(count):
            if (name := self.text()) in found:
                raise ValueError(f"it names {name!r} twice")
            found[name] = read()
        return found
