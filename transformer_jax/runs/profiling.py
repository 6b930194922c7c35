"""A trace of a few steps of a run, for XProf."""

from pathlib import Path
from typing import Any

import jax

PROFILE = "profile"
"""Directory in a run: the trace."""
WARM_UP, TRACED = 5, 5
"""Steps before those that are traced, in which the first shapes are compiled; and how many are traced."""


class Profiler:
    """Traces steps `WARM_UP` to `WARM_UP + TRACED` after the first one; to be told of each step before and after."""

    def __init__(self, directory: Path, first_step: int):
        self.directory = directory / PROFILE
        self._begin, self._end = first_step + WARM_UP, first_step + WARM_UP + TRACED
        self._tracing = False

    def before(self, step: int) -> None:
        """Starts the trace where it is time."""
        if step == self._begin:
            jax.profiler.start_trace(str(self.directory))
            self._tracing = True

    def after(self, step: int, result: Any, *, last: bool) -> None:
        """Ends it, once the device has computed the step's `result`; also behind the last step of a short run."""
        if self._tracing and (step + 1 == self._end or last):
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            self._tracing = False
