"""Attention by the plain formula and by the fused kernel of this device: milliseconds, forward and with gradients.

    python benchmarks/attention.py [--heads 12 --width 64 --tokens 16384 --lengths 64 256 1024]

Queries, keys and values are random, in bfloat16, of so many tokens in rows of each length; rows are causal, alone or
packed of four documents. Each time is the median of five, of five calls each.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax.nn.attention import dot_product_attention
from transformer_jax.nn.kernels import PLAIN, suited_kernel
from transformer_jax.nn.mask import AttentionMask


def milliseconds(function: Callable[..., Any], *arguments: Any) -> float:
    """The time of a call once it is compiled."""
    compiled, times = jax.jit(function), list[float]()
    jax.block_until_ready(compiled(*arguments))
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(5):
            made = compiled(*arguments)
        jax.block_until_ready(made)
        times.append((time.perf_counter() - began) / 5)
    return 1000 * statistics.median(times)


def total(kernel: str, query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask) -> jax.Array:
    """A number that depends on all outputs."""
    mixed = dot_product_attention(query, key, value, mask, kernel=kernel)
    return jnp.sum(mixed.astype(jnp.float32) ** 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("heads", 12), ("width", 64), ("tokens", 16_384)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1_024])
    options = parser.parse_args()
    device, rng = jax.devices()[0], np.random.default_rng(0)
    kernels = dict.fromkeys((PLAIN, suited_kernel(device.device_kind)))
    print(f"{device.device_kind}: {', '.join(kernels)}")
    for length in options.lengths:
        shape = (max(options.tokens // length, 1), length, options.heads, options.width)
        arrays = [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for _ in range(3)]
        begins = rng.integers(0, length, (shape[0], 3))
        segments = jnp.asarray((begins[:, :, None] <= np.arange(length)).sum(axis=1), jnp.int32)
        masks = {"causal": AttentionMask(causal=True)}
        masks["packed"] = AttentionMask(causal=True, query_segments=segments, key_segments=segments)
        for name, mask in masks.items():
            for kernel in kernels:
                forward = partial(total, kernel)
                times = [milliseconds(f, *arrays, mask) for f in (forward, jax.grad(forward, argnums=(0, 1, 2)))]
                print(f"{shape[0]} x {length} {name:<7}{kernel:<7}", end="")
                print(f"{times[0]:9.2f} ms forward {times[1]:9.2f} with gradients", flush=True)


if __name__ == "__main__":
    main()
