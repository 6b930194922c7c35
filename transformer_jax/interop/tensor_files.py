"""Files of named tensors in the format safetensors, read without trust and without copying.

A file is the length of a header (8 bytes, little-endian), the header (JSON: type, shape and place of every tensor) and
the tensors' bytes one behind the other (https://github.com/huggingface/safetensors, "Format"). Everything in a header
is checked against the file's size before an array is made; arrays are views of the memory-mapped file.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from transformer_jax.data.lines import json_object, read_json

LARGEST_HEADER = 100_000_000
"""Bytes, as in the format's own library."""
LARGEST_SHARD = 5 * 2**30
"""Bytes of tensors after which another file is begun."""
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
OTHERS = {"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_}
TYPES: dict[str, np.dtype[Any]] = {name: np.dtype(kind) for name, kind in (FLOATS | OTHERS).items()}
NAMES = {kind: name for name, kind in TYPES.items()}
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
SHARD = re.compile(r"[\w.-]+\.safetensors")
"""Names that an index may have: files of its own directory."""


class Tensor(NamedTuple):
    """A tensor that is to be written."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file by name, as a view; ValueError for a file that is damaged, hostile or cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise ValueError(f"{path} is cut off or no safetensors file: its header would have {length:,} bytes")
        header = json_object(file.read(length), f"the header of {path}", unique=True)
    header.pop("__metadata__", None)
    places = {name: _checked(path, name, facts) for name, facts in header.items()}
    end = 0
    for name, (_, _, begin, after) in sorted(places.items(), key=lambda place: place[1][2:]):
        if begin != end:
            raise ValueError(f"{path} is damaged: {name} does not begin where the tensor before it ends")
        if (end := after) > size - 8 - length:
            raise ValueError(f"{path} is cut off inside of {name}: it has {size:,} bytes")
    if end != size - 8 - length:
        raise ValueError(f"{path} is damaged: there are {size - 8 - length - end:,} bytes behind its last tensor")
    data = np.memmap(path, np.uint8, mode="r")[8 + length :]
    return {name: data[begin:end].view(kind).reshape(shape) for name, (kind, shape, begin, end) in places.items()}


def _checked(path: Path, name: str, facts: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """Type, shape, begin and end of a header's entry, if it holds together."""
    try:
        kind, shape, (begin, end) = str(facts["dtype"]), tuple(facts["shape"]), facts["data_offsets"]
    except (TypeError, LookupError, ValueError):
        raise ValueError(f"{path} is damaged: {name} lacks a dtype, shape or data_offsets") from None
    if kind not in TYPES:
        raise ValueError(f"{path}: {name} is of the type {kind!r}, which is not read here; {', '.join(TYPES)} are")
    numbers = all(type(number) is int and number >= 0 for number in (*shape, begin, end)) and len(shape) <= 8
    if not numbers or math.prod(shape) * TYPES[kind].itemsize != end - begin:
        raise ValueError(f"{path} is damaged: {name} of shape {shape} and type {kind} is said to be {begin} to {end}")
    return TYPES[kind], shape, begin, end


def read_directory(directory: Path) -> dict[str, np.ndarray]:
    """All tensors of `model.safetensors`, or of the shards that its index names, as views."""
    if not (directory / INDEX).is_file():
        return read_tensors(directory / SINGLE)
    index = read_json(directory / INDEX, unique=True).get("weight_map")
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


def write_directory(directory: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors to one file, or to shards with an index; one tensor at a time is in memory."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in sorted(tensors.items()):
        if shards[-1] and size + tensor.bytes > LARGEST_SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.bytes
    count = len(shards)
    files = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)] if count > 1 else [SINGLE]
    for file, shard in zip(files, shards, strict=True):
        _write(directory / file, shard)
    if count > 1:
        index = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        content = {"metadata": {"total_size": sum(each.bytes for each in tensors.values())}, "weight_map": index}
        (directory / INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.bytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": [begin, end]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor.make(), tensor.dtype).tobytes())
