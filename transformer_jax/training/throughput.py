"""How fast a run is, and how much of the machine it uses."""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from transformer_jax.parallel.chips import chip_of

CUDNN = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}
"""Matrix products in cuDNN's attention; backwards the scores are computed once more."""


class Throughput:
    """Speed since the last row of metrics; evaluations and checkpoints are left out."""

    def __init__(self, devices: Iterable[Any], dtype: str = "float32"):
        self._devices = list(devices)
        chip = chip_of(self._devices[0].device_kind)
        self._peak = chip and chip.peak(dtype) * len(self._devices)
        self.tokens = 0.0
        self._flops = 0.0
        self._of_shapes: dict[Any, float] = {}
        self._seconds = 0.0
        self._began = time.perf_counter()

    def add(self, flops: Callable[..., float], state: Any, batch: Any, key: Any) -> None:
        """Counts a step that is about to be made, of `flops(state, batch, key)`, where the chip's peak is known."""
        if self._peak is None:
            return
        shapes = tuple((name, array.shape) for name, array in batch.items())
        if shapes not in self._of_shapes:
            self._of_shapes[shapes] = flops(state, batch, key)
        self._flops += self._of_shapes[shapes]

    def pause(self) -> None:
        """Stops the clock."""
        self._seconds += time.perf_counter() - self._began

    def resume(self) -> None:
        """Goes on."""
        self._began = time.perf_counter()

    def lap(self) -> dict[str, float]:
        """`tokens_per_second` and, of a known chip, `mfu` since the last call; `peak_memory` in bytes since the start.

        MFU is the share of the chips' peak that the model needs, without what is computed again to save memory
        (Chowdhery et al. 2022, "PaLM", appendix B).
        """
        now = time.perf_counter()
        seconds = max(self._seconds + now - self._began, 1e-9)
        found = {"tokens_per_second": self.tokens / seconds, "peak_memory": peak_memory(self._devices)}
        if self._peak is not None:
            found["mfu"] = self._flops / seconds / self._peak
        self.tokens, self._flops, self._seconds, self._began = 0.0, 0.0, 0.0, now
        return found


def peak_memory(devices: Iterable[Any]) -> int:
    """The most bytes that were in use on one of this process's devices; where these do not say, by the process."""
    stats = [device.memory_stats() for device in devices if device.process_index == jax.process_index()]
    peaks = [stat["peak_bytes_in_use"] for stat in stats if stat and "peak_bytes_in_use" in stat]
    unit = 1 if sys.platform == "darwin" else 1024
    return max(peaks, default=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def matmul_flops(jaxpr: Any) -> float:
    """Floating-point operations of all matrix products of a traced program (`jax.make_jaxpr`), on all devices together.

    A product of `[batch, m, k]` and `[batch, k, n]` counts 2 * batch * m * k * n; what a loop does counts each time.
    Fused attention counts as if it did not know that half of the scores are hidden, like the plain formula.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        elif equation.primitive.name in CUDNN:
            query, key = (variable.aval.shape for variable in equation.invars[:2])
            total += CUDNN[equation.primitive.name] * 2.0 * math.prod(query) * key[1]
        total += _times(equation) * sum(matmul_flops(inner) for inner in _inner(equation))
    return total


def _times(equation: Any) -> int:
    """How often an equation does what is inside of it, on all devices together."""
    match equation.primitive.name:
        case "scan":
            return equation.params["length"]
        case "pallas_call":
            return math.prod(equation.params["grid_mapping"].grid)
        case "shard_map":
            return equation.params["mesh"].size
    return 1


def _inner(equation: Any) -> Iterator[Any]:
    """The programs inside of a loop, a call or a branch; of branches the costliest."""
    if equation.primitive.name == "cond":
        yield max((branch.jaxpr for branch in equation.params["branches"]), key=matmul_flops)
        return
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if hasattr(one, "eqns"):
                yield one
            elif hasattr(getattr(one, "jaxpr", None), "eqns"):
                yield one.jaxpr
