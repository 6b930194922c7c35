"""A trace of a few steps of a run, for XProf, and the operations that take most of their time."""

from collections import Counter
from pathlib import Path
from typing import Any

import jax

PROFILE = "profile"
"""Directory in a run that holds the trace."""
WARM_UP, TRACED = 5, 5
"""Steps before the traced ones, in which the first shapes are compiled, and the number of traced steps."""
CONTAINERS = ("while", "call", "conditional")
"""Operations whose time is that of others inside of them."""


class Profiler:
    """Traces steps `WARM_UP` to `WARM_UP + TRACED` after the first one, told of each step `before` and `after`."""

    def __init__(self, directory: Path, first_step: int, *, enabled: bool):
        self.directory, self._enabled = directory / PROFILE, enabled
        self._begin, self._end = first_step + WARM_UP, first_step + WARM_UP + TRACED
        self._tracing = False

    def before(self, step: int) -> None:
        """Starts the trace at its first step."""
        if self._enabled and step == self._begin:
            jax.profiler.start_trace(str(self.directory))
            self._tracing = True

    def after(self, step: int, result: Any, *, last: bool) -> None:
        """Ends the trace once the device has computed `result` of its last step, or of a short run's `last` one."""
        if self._tracing and (step + 1 == self._end or last):
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            self._tracing = False


def report(directory: Path, count: int = 10) -> str:
    """Lists the costliest operations of the newest trace, a line each; FileNotFoundError if there is no trace."""
    traces = sorted(directory.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not traces:
        raise FileNotFoundError(f"there is no trace in {directory}: was the run long enough?")
    seconds: Counter[str] = Counter()
    planes = list(jax.profiler.ProfileData.from_file(str(traces[-1])).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        for line in plane.lines:
            # A device has a line of operations; on a CPU they are those of XLA's own threads.
            if line.name == "XLA Ops" if devices else line.name.startswith("tf_XLA"):
                for event in line.events:
                    if "::" not in event.name and event.name.split(".")[0] not in CONTAINERS:
                        seconds[event.name] += event.duration_ns * 1e-9
    total = sum(seconds.values()) or 1.0
    rows = [f"  {value / total:6.1%}  {1e3 * value:9.2f} ms  {name}" for name, value in seconds.most_common(count)]
    return "\n".join([f"the costliest operations of the steps traced in {directory}:", *rows])
