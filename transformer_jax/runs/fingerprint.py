"""Fingerprints of arrays, files and JSON, which show that a checkpoint has changed.

Those of arrays have 32 bits, and are computed on the arrays' devices without gathering. Every element is mixed with its
position, and the results are added modulo 2^32. The mixing is a bijection of the element's bits, so one changed element
(of at most 32 bits) always changes the sum; one in 2^32 other changes, such as exchanged elements, goes unseen. The sum
does not depend on the array's sharding.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt32


def fingerprints(arrays: Mapping[str, Array]) -> tuple[dict[str, int], list[str]]:
    """The fingerprint of every array by name, and the names of those that hold an infinity or NaN."""
    measured = jax.device_get(_measure(dict(arrays)))
    hashes = {name: int(fingerprint) for name, (fingerprint, _) in measured.items()}
    return hashes, [name for name, (_, finite) in measured.items() if not finite]


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_fingerprint(tree: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


@jax.jit
def _measure(arrays: dict[str, Array]) -> dict[str, tuple[UInt32[Array, ""], Bool[Array, ""]]]:
    """The fingerprint of every array, and whether all of it is finite."""
    measured = {}
    for name, array in arrays.items():
        words, is_float = _words(array), jnp.issubdtype(array.dtype, jnp.inexact)
        fingerprint = jnp.sum(_mix(words ^ _mix(_positions(words.shape))), dtype=jnp.uint32)
        measured[name] = fingerprint, jnp.isfinite(array).all() if is_float else jnp.array(True)
    return measured


def _words(array: Array) -> UInt32[Array, "..."]:
    """The bits of every element as 32-bit words; elements of 64 bits give two, along a new last axis."""
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    width = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(array, width).astype(jnp.uint32)


def _positions(shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """The row-major index of every element, modulo 2^32; of iotas, so that each shard makes its own part."""
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        index = index * np.uint32(size % 2**32) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return index


def _mix(words: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """MurmurHash3's finaliser (Appleby 2011, https://github.com/aappleby/smhasher), a bijection of 32-bit words."""
    words = (words ^ (words >> 16)) * np.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * np.uint32(0xC2B2AE35)
    return words ^ (words >> 16)
