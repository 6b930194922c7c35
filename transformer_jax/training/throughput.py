"""Tokens per second, use of the chips' peak, and memory of a run."""

import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

from transformer_jax.parallel.chips import chip_of

STATM = Path("/proc/self/statm")
"""Linux's file with the pages of this process, of which the second number counts those in memory."""


class Throughput:
    """Speed since the last row of metrics; compilations, evaluations and checkpoints are left out."""

    def __init__(self, devices: Iterable[Any], dtype: str = "float32"):
        self._devices = list(devices)
        chip = chip_of(self._devices[0].device_kind)
        self._peak = chip and chip.peak(dtype) * len(self._devices)
        self._flops_by_shapes: dict[Any, float] = {}
        self.tokens, self._flops, self._seconds, self._began = 0.0, 0.0, 0.0, time.perf_counter()

    def add(self, flops: Callable[..., float], state: Any, batch: Any, key: Any) -> None:
        """Counts the `flops(state, batch, key)` operations of a step about to be made, if the chip's peak is known."""
        if self._peak is None:
            return
        shapes = tuple((name, array.shape) for name, array in batch.items())
        if shapes not in self._flops_by_shapes:
            self._flops_by_shapes[shapes] = flops(state, batch, key)
        self._flops += self._flops_by_shapes[shapes]

    def pause(self) -> None:
        """Stops the clock."""
        self._seconds += time.perf_counter() - self._began

    def resume(self) -> None:
        """Starts the clock again."""
        self._began = time.perf_counter()

    def lap(self) -> dict[str, float]:
        """Returns `tokens_per_second` and, of a known chip, `mfu` since the last call, and the `memory`.

        MFU is the share of the chips' peak that the model needs, without what is computed again to save memory
        (Chowdhery et al. 2022, "PaLM", appendix B).
        """
        now = time.perf_counter()
        seconds = max(self._seconds + now - self._began, 1e-9)
        speed = {"tokens_per_second": self.tokens / seconds, **memory(self._devices)}
        if self._peak is not None:
            speed["mfu"] = self._flops / seconds / self._peak
        self.tokens, self._flops, self._seconds, self._began = 0.0, 0.0, 0.0, now
        return speed


def memory(devices: Iterable[Any]) -> dict[str, int]:
    """Bytes in use now as `memory`, and the most ever as `peak_memory`.

    On that one of this process's devices that uses most or, if they do not tell, by the process, whose memory now is
    known on Linux alone.
    """
    stats = [device.memory_stats() for device in devices if device.process_index == jax.process_index()]
    known = [stat for stat in stats if stat and "peak_bytes_in_use" in stat]
    if known:
        names = {"memory": "bytes_in_use", "peak_memory": "peak_bytes_in_use"}
        return {name: max(stat[of] for stat in known) for name, of in names.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if not STATM.exists():
        return {"peak_memory": peak * (1 if sys.platform == "darwin" else 1024)}
    now = int(STATM.read_text().split()[1]) * resource.getpagesize()
    return {"memory": now, "peak_memory": max(peak * 1024, now)}  # the kernel counts the peak a little late
