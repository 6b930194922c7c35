"""Files of named tensors in the format safetensors, read without trust and without copying.

A file is the length of a header (8 bytes, little-endian), the header (JSON: type, shape and place of every tensor) and
the tensors' bytes one behind the other (https://github.com/huggingface/safetensors, "Format"). Everything in a header
is checked against the file's size before an array is made; arrays are views of the memory-mapped file.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

LARGEST_HEADER = 100_000_000
"""Bytes, as in the format's own library."""
LARGEST_SHARD = 5 * 2**30
"""Bytes of tensors after which another file is begun."""
TYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}
SHARD = re.compile(r"[\w.-]+\.safetensors")
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


class Place(NamedTuple):
    """Where in its file a tensor is."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    """Bytes of the file before it."""


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file by name, as a view; ValueError for a file that is damaged, hostile or cut off."""
    places = read_header(path)
    if not places:
        return {}
    data = np.memmap(path, np.uint8, mode="r")
    return {
        name: data[place.offset : place.offset + size_of(place)].view(place.dtype).reshape(place.shape)
        for name, place in places.items()
    }


def read_header(path: Path) -> dict[str, Place]:
    """The place of every tensor of a file, all checked against the file's size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise ValueError(f"{path} is cut off or no safetensors file: its header would have {length:,} bytes")
        header = read_json(file.read(length), str(path))
    header.pop("__metadata__", None)
    begin = 8 + length
    places = {name: _place(path, name, facts, begin) for name, facts in header.items()}
    end = begin
    for name, place in sorted(places.items(), key=lambda pair: (pair[1].offset, size_of(pair[1]))):
        if place.offset != end:
            raise ValueError(f"{path} is damaged: {name} does not begin where the tensor before it ends")
        end += size_of(place)
        if end > size:
            raise ValueError(f"{path} is cut off inside of {name}: it has {size:,} bytes")
    if end != size:
        raise ValueError(f"{path} is damaged: there are {size - end:,} bytes behind its last tensor")
    return places


def size_of(place: Place) -> int:
    """The number of a tensor's bytes."""
    return math.prod(place.shape) * place.dtype.itemsize


def _place(path: Path, name: str, facts: Any, begin: int) -> Place:
    """One entry of a header, if it holds together."""
    try:
        kind, shape, (start, end) = facts["dtype"], facts["shape"], facts["data_offsets"]
        numbers = [*shape, start, end]
    except (TypeError, LookupError, ValueError):
        raise ValueError(f"{path} is damaged: {name} lacks a dtype, shape or data_offsets") from None
    if not all(type(number) is int and number >= 0 for number in numbers) or len(shape) > 8:
        raise ValueError(f"{path} is damaged: {name} has the shape {shape} and the place {start} to {end}")
    if not isinstance(kind, str) or kind not in TYPES:
        raise ValueError(f"{path}: {name} is of the type {kind!r}, which is not read here; {', '.join(TYPES)} are")
    place = Place(np.dtype(TYPES[kind]), tuple(shape), begin + start)
    if size_of(place) != end - start:
        raise ValueError(f"{path} is damaged: {name} of shape {shape} and type {kind} is not {end - start:,} bytes")
    return place


def read_json(content: bytes, where: str) -> dict[str, Any]:
    """A JSON object; ValueError for anything else, and for a name that is there twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"it names {next(name for name in names if names.count(name) > 1)} twice")
        return found

    try:
        value = json.loads(content.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where} is damaged: it holds no JSON object")
    return value


def read_directory(directory: Path) -> dict[str, np.ndarray]:
    """All tensors of `model.safetensors`, or of the shards that its index names, as views."""
    if not (directory / INDEX).is_file():
        return read_tensors(directory / SINGLE)
    index = read_json((directory / INDEX).read_bytes(), str(directory / INDEX)).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise ValueError(f"{directory / INDEX} is damaged: it has no weight_map")
    for name, file in index.items():
        if not isinstance(file, str) or not SHARD.fullmatch(file):
            raise ValueError(f"{directory / INDEX} places {name} in {file!r}, which is no file of its directory")
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(index.values())):
        if not (directory / file).is_file():
            raise FileNotFoundError(f"{directory} lacks {file}, which its index names")
        shard = read_tensors(directory / file)
        if wrong := sorted({name for name in index if index[name] == file} ^ shard.keys()):
            raise ValueError(f"{directory / file} and the index disagree on {wrong[0]}")
        tensors |= shard
    return tensors


def write_directory(directory: Path, tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...], Any]]) -> None:
    """Writes tensors, each given as type, shape and a function that makes it: one file, or shards with an index.

    One tensor at a time is in memory.
    """
    shards, room = [{}], LARGEST_SHARD
    for name in sorted(tensors):
        size = size_of(Place(*tensors[name][:2], 0))
        if shards[-1] and size > room:
            shards.append({})
            room = LARGEST_SHARD
        shards[-1][name], room = tensors[name], room - size
    count = len(shards)
    files = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)] if count > 1 else [SINGLE]
    for file, shard in zip(files, shards, strict=True):
        _write(directory / file, shard)
    if count > 1:
        index = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        total = sum(size_of(Place(*tensor[:2], 0)) for tensor in tensors.values())
        content = {"metadata": {"total_size": total}, "weight_map": index}
        (directory / INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write(path: Path, tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...], Any]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, _) in tensors.items():
        begin, end = end, end + size_of(Place(dtype, shape, 0))
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        for dtype, shape, make in tensors.values():
            array = np.ascontiguousarray(make(), dtype)
            assert_shape(array.shape, shape)
            file.write(array.tobytes())


def assert_shape(found: Iterable[int], wanted: Iterable[int]) -> None:
    """Raises ValueError where a tensor is not as it was announced."""
    if tuple(found) != tuple(wanted):
        raise ValueError(f"a tensor of shape {tuple(found)} was announced as {tuple(wanted)}")
