"""The metrics of a run in progress, written to `metrics.jsonl`, given to trackers and shown on the console.

The columns of a row:

step                  updates made so far
epoch                 how often they have gone through the training examples
steps_averaged        steps since the row before, which the columns up to `mfu` are about
loss, nll, ...        the task's metrics: means over those steps, weighted by what each is a mean of (a loss: tokens)
gradient_norm         mean over those steps
tokens                tokens of those steps, all together
tokens_per_second     of those steps, without compilations, evaluations and checkpoints
mfu                   share of the chips' peak, if that is known
learning_rate         of the last step
memory                bytes that a device holds now or, if devices do not tell, the process: what grows is a leak
peak_memory           the most that it ever held
validation_...        scores after the last step, where it was evaluated

In rows of version 0.1.0, which have no `steps_averaged`, all but `tokens_per_second` and `mfu` are of the last step.
"""

import json
import math
import numbers
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from transformer_jax.data.lines import write_whole
from transformer_jax.runs.trackers import TRACKERS, VALIDATION, by_group

METRICS = "metrics.jsonl"
Row = Mapping[str, float | int]

_SHOWN: dict[str, Callable[[float], str]] = {
    "loss": "loss {:7.4f}".format,
    "gradient_norm": "gradient {:6.3f}".format,
    "learning_rate": "lr {:.2e}".format,
    "tokens_per_second": "{:>7,.0f} tokens/s".format,
    "mfu": "MFU {:5.1%}".format,
    "memory": lambda size: f"{size / 2**30:.2f} GiB",
    "peak_memory": lambda size: f"peak {size / 2**30:.2f}",
}


class MetricsLog:
    """Writes and shows the rows of one run; to be used as a context manager.

    Every row goes to `directory/metrics.jsonl`, one JSON object a line, where a number reads back exactly and one that
    is not finite is null; and to the trackers that `log_to` names, with the `experiment` as plain JSON. A terminal
    shows a progress bar, with a line that stays for every evaluation (a row that has `validation_...`); any other
    output gets a line a row. Nothing goes to stderr.

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
        log_to: Sequence[str] = ("tensorboard",),
        experiment: Mapping[str, Any] = MappingProxyType({}),
    ):
        self._enabled = enabled
        if not enabled:
            return
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        _keep_until(directory, resume_step)
        self._file = (directory / METRICS).open("a", encoding="utf-8")
        self._trackers = [TRACKERS[name](directory, resume_step, experiment) for name in log_to]
        self._total_steps = total_steps
        self._paced: tuple[int, float] | None = None
        self._console = console or Console(file=sys.stdout)
        self._bar: Progress | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            columns = (BarColumn(bar_width=20), TextColumn("{task.description}", markup=False))
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("compiling the first step", total=total_steps, completed=resume_step)
            self._bar.start()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._enabled:
            if self._bar:
                self._bar.stop()
            self._file.close()
            for tracker in self._trackers:
                tracker.close()

    def write(self, row: Row) -> None:
        """Writes and shows the values of `row["step"]`."""
        if not self._enabled:
            return
        self._file.write(json.dumps({name: as_json(value) for name, value in row.items()}, allow_nan=False) + "\n")
        self._file.flush()
        step = int(row["step"])
        for tracker in self._trackers:
            tracker.write(step, by_group(row))
        self.show(row)
        scores = {name.removeprefix(VALIDATION): row[name] for name in row if name.startswith(VALIDATION)}
        if scores:
            values = [f"{name} {value:.4g}" for name, value in scores.items()]
            self.message("  ".join([self._place(step), "validation", *values]))

    def amend(self, row: Row) -> None:
        """Writes and shows a row in place of that of its step, which is the last."""
        if not self._enabled:
            return
        self._file.close()
        _keep_until(self._directory, int(row["step"]) - 1)
        self._file = (self._directory / METRICS).open("a", encoding="utf-8")
        self.write(row)

    def show(self, row: Row) -> None:
        """Shows the values of `row["step"]`, and writes nothing."""
        if not self._enabled:
            return
        step = int(row["step"])
        values = [shown(row[name]) for name, shown in _SHOWN.items() if name in row]
        text = "  ".join([self._place(step), *values, *self._time_left(step)])
        if self._bar:
            self._bar.update(self._task, completed=step, description=text)
        else:
            self.message(text)

    def _place(self, step: int) -> str:
        return f"step {step:>{len(f'{self._total_steps:,}')},}/{self._total_steps:,}"

    def _time_left(self, step: int) -> list[str]:
        """The time left by the pace since the first row, which has none to go by."""
        now, paced = time.monotonic(), self._paced
        self._paced = paced or (step, now)
        if paced is None or step == paced[0]:
            return []
        seconds = (now - paced[1]) / (step - paced[0]) * (self._total_steps - step)
        return [f"ETA {timedelta(seconds=round(seconds))}"]

    @contextmanager
    def announced(self, begins: str, ends: str) -> Iterator[None]:
        """Says that something `begins` and, with the time it took, that it `ends`; the pace leaves that time out."""
        self.message(begins)
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        if self._enabled and self._paced:
            self._paced = self._paced[0], self._paced[1] + seconds
        self.message(f"{ends} in {seconds:.1f} s")

    def message(self, text: str) -> None:
        """Prints a line, above the progress bar on a terminal."""
        if self._enabled and self._bar:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif self._enabled:
            print(text, file=self._console.file, flush=True)


def as_json(value: Any) -> Any:
    """A value as every reader of JSON takes it: None for a number that is not finite, NumPy's numbers as Python's."""
    if isinstance(value, numbers.Real) and not isinstance(value, int):
        return float(value) if math.isfinite(value) else None
    return value


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The rows of a run; ValueError for a damaged line, but for a last one that a killed process left unfinished."""
    path = directory / METRICS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int) and all(map(_is_number, row.values())):
            rows.append(row)
        elif number < len(lines):
            raise ValueError(f"{path}:{number} is not a JSON object of numbers with a step; delete that line")
    return rows


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def _keep_until(directory: Path, step: int) -> None:
    """Takes the rows after `step`, and an unfinished one, out of the file."""
    rows = [row for row in read_metrics(directory) if row["step"] <= step]
    write_whole(directory / METRICS, "".join(json.dumps(row) + "\n" for row in rows).encode())
