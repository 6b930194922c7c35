"""The numbers of a run as it goes: `metrics.jsonl`, TensorBoard files, and what a person sees meanwhile."""

import json
import math
import numbers
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

METRICS = "metrics.jsonl"
Row = Mapping[str, float | int]

_VALIDATION = "validation_"
_SHOWN: dict[str, Callable[[float], str]] = {
    "loss": "loss {:7.4f}".format,
    "gradient_norm": "gradient {:6.3f}".format,
    "learning_rate": "lr {:.2e}".format,
    "tokens_per_second": "{:>7,.0f} tokens/s".format,
    "mfu": "MFU {:5.1%}".format,
    "peak_memory": lambda size: f"{size / 2**30:.1f} GiB",
}


class MetricsLog:
    """Writes and shows the rows of one run; to be used as a context manager.

    Every row goes to `directory/metrics.jsonl`, one JSON object a line, where a number reads back exactly and one that
    is not finite stands as null; and to `directory/tensorboard/`. A terminal shows a progress bar, with a line that
    stays for every evaluation (a row that holds `validation_...`); any other output gets a line a row. Nothing goes to
    stderr.

    A run that goes on at `resume_step` drops the rows after that step, so that the file holds each step once. `enabled`
    is False on all processes but the first: they write and show nothing.
    """

    def __init__(
        self,
        directory: Path,
        *,
        total_steps: int,
        resume_step: int = 0,
        console: Console | None = None,
        enabled: bool = True,
    ):
        self._enabled = enabled
        if not enabled:
            return
        from tensorboardX import SummaryWriter

        directory.mkdir(parents=True, exist_ok=True)
        _keep_until(directory, resume_step)
        self._file = (directory / METRICS).open("a", encoding="utf-8")
        self._tensorboard = SummaryWriter(str(directory / "tensorboard"), purge_step=resume_step + 1)
        self._total_steps = total_steps
        self._clock = _Clock(total_steps, resume_step)
        console = console or Console(file=sys.stdout)
        on_terminal = console.is_terminal and not console.is_dumb_terminal
        self._display = _Bar(console, total_steps, resume_step) if on_terminal else _Lines(console)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._enabled:
            self._display.close()
            self._file.close()
            self._tensorboard.close()

    def write(self, row: Row) -> None:
        """Writes and shows the values of `row["step"]`."""
        if not self._enabled:
            return
        self._file.write(json.dumps({name: as_json(value) for name, value in row.items()}, allow_nan=False) + "\n")
        self._file.flush()
        step = int(row["step"])
        for name, value in row.items():
            if name != "step" and math.isfinite(value):  # tensorboardX warns on stderr of others
                self._tensorboard.add_scalar(_tensorboard_name(name), value, step)
        place = f"step {step:>{len(f'{self._total_steps:,}')},}/{self._total_steps:,}"
        values = [shown(row[name]) for name, shown in _SHOWN.items() if name in row]
        self._display.step(step, "  ".join([place, *values, f"ETA {self._clock.time_left(step)}"]))
        scores = {name.removeprefix(_VALIDATION): row[name] for name in row if name.startswith(_VALIDATION)}
        if scores:
            self.message("  ".join([place, "validation", *(f"{name} {value:.4g}" for name, value in scores.items())]))

    def message(self, text: str) -> None:
        """Prints a line, above the progress bar where there is one."""
        if self._enabled:
            self._display.line(text)


def as_json(value: Any) -> Any:
    """A value as every reader of JSON takes it: None for a number that is not finite, NumPy's numbers as Python's."""
    if isinstance(value, numbers.Real) and not isinstance(value, int):
        return float(value) if math.isfinite(value) else None
    return value


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The rows of a run, none if it has not written any. A last line that a killed process left unfinished is no row.

    Raises ValueError when any other line is damaged.
    """
    path = directory / METRICS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [_parse(line) for line in lines]
    if rows and rows[-1] is None:
        rows.pop()
    if None in rows:
        raise ValueError(f"{path}:{rows.index(None) + 1} is not a JSON object with a step; delete that line")
    return [row for row in rows if row is not None]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "step" in row else None


def _keep_until(directory: Path, step: int) -> None:
    """Takes the rows after `step`, and an unfinished one, out of the file."""
    rows = [row for row in read_metrics(directory) if row["step"] <= step]
    partial = directory / f"{METRICS}.partial"
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(directory / METRICS)


def _tensorboard_name(name: str) -> str:
    """TensorBoard puts names with the same beginning into one section."""
    group = "validation" if name.startswith(_VALIDATION) else "train"
    return f"{group}/{name.removeprefix(_VALIDATION)}"


class _Clock:
    """Guesses how long a run will go on, from its pace since the first row: compilation comes before that."""

    def __init__(self, total_steps: int, start: int):
        self._total_steps, self._start, self._began = total_steps, start, time.monotonic()
        self._first = True

    def time_left(self, step: int) -> str:
        now = time.monotonic()
        seconds = (now - self._began) / max(step - self._start, 1) * (self._total_steps - step)
        if self._first:
            self._first, self._start, self._began = False, step, now
        return _duration(seconds)


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


class _Lines:
    """For a log file: every step a line."""

    def __init__(self, console: Console):
        self._console = console

    def step(self, step: int, text: str) -> None:
        self.line(text)

    def line(self, text: str) -> None:
        print(text, file=self._console.file, flush=True)

    def close(self) -> None:
        pass


class _Bar:
    """For a terminal: one line that changes in place, below those that stay."""

    def __init__(self, console: Console, total_steps: int, start: int):
        columns = (BarColumn(bar_width=20), TextColumn("{task.description}", markup=False))
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("compiling the first step", total=total_steps, completed=start)
        self._progress.start()

    def step(self, step: int, text: str) -> None:
        self._progress.update(self._task, completed=step, description=text)

    def line(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()
