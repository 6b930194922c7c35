"""Runs of one experiment with other values of some fields, one after another, each in a process of its own.

The run directories are the only memory: started again, a sweep skips the runs that have finished, goes on in those that
have not, and tries again those that failed.

WORKDIR/ROW/seed_0        a run directory
WORKDIR/ROW/seed_0.log    what its training printed when it was last started
WORKDIR/programs          compiled programs, which the runs share
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformer_jax.data.lines import one_line
from transformer_jax.runs.interrupts import Interrupts
from transformer_jax.runs.preparation import in_use, is_same
from transformer_jax.runs.result import cpu_kind, read_result
from transformer_jax.runs.run import Run
from transformer_jax.training.experiment import Experiment

POLL = 0.1
"""Seconds between looks at a process."""
RETRY = 10.0
"""Seconds until a directory in which another process trains is tried again."""


@dataclass(frozen=True)
class Row:
    """A row of a table: the base experiment with other values of some fields."""

    name: str
    """Also the name of its directory."""
    overrides: tuple[str, ...] = ()
    """The fields and their values as they are typed."""


@dataclass(frozen=True)
class Job:
    """One run of a row."""

    row: Row
    seed: int
    directory: Path
    arguments: tuple[str, ...]
    """Those of `transformer-jax`."""
    experiment: Experiment

    def __str__(self) -> str:
        """The command as it would be typed."""
        return shlex.join(["transformer-jax", *self.arguments])

    @property
    def log(self) -> Path:
        """The file with what the training prints."""
        return self.directory.with_name(f"{self.directory.name}.log")

    @property
    def finished(self) -> bool:
        """Whether the directory holds the result of exactly this experiment."""
        same = Run.exists(self.directory) and is_same(self.experiment, self.directory)
        return same and read_result(self.directory) is not None


def run_jobs(jobs: Sequence[Job], tell: Callable[[str], None]) -> dict[Path, str]:
    """Runs what has not finished; returns the reasons of runs that failed, by their directories.

    `tell` is called with a line before and after each. SIGTERM and Ctrl-C are passed on to the training, which saves
    and stops; then SystemExit is raised with 143 or 130.
    """
    problems: dict[Path, str] = {}
    with Interrupts() as interrupts:
        for number, job in enumerate(jobs, 1):
            place = f"{number}/{len(jobs)} {job.directory}"
            began = time.monotonic()
            try:
                if job.finished:
                    tell(f"{place}: has finished before")
                    continue
                tell(f"{place}: training, see {job.log}")
                waiting = partial(tell, f"{place}: waiting for the process that trains there")
                problem = _run(job, interrupts, waiting)
            except (OSError, ValueError) as error:
                problem = one_line(error)
            if interrupts.signal is not None:
                tell("stopped; the same command goes on from there")
                raise SystemExit(128 + interrupts.signal)
            if problem:
                problems[job.directory] = problem
            tell(f"{place}: {problem or 'done'}, after {time.monotonic() - began:.0f} s")
    return problems


def process_of(arguments: Sequence[str], directory: Path) -> tuple[list[str], dict[str, str]]:
    """The command of a process that runs this very package for a run directory of a sweep, and its environment.

    All of a sweep share their compiled programs in its directory: those of one kind of CPU, where they run alike.
    """
    package = str(Path(__file__).resolve().parents[2])
    programs = directory.absolute().parents[1] / "programs" / cpu_kind()
    environment = {"JAX_COMPILATION_CACHE_DIR": str(programs), **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    # Without -P a folder of this name in the working directory would be taken for the package.
    return [sys.executable, "-P", "-m", "transformer_jax", *arguments], environment


def _run(job: Job, interrupts: Interrupts, waiting: Callable[[], object]) -> str:
    """Trains in a process of its own, after any that trains there already; returns why it did not finish, or nothing.

    Calls `waiting` each time that there is another one, such as what a killed sweep began.
    """
    while True:
        while in_use(job.directory) and interrupts.signal is None:
            waiting()
            time.sleep(RETRY)
        problem = "" if interrupts.signal is not None or job.finished else _train(job, interrupts)
        if not problem or not in_use(job.directory):  # another sweep may have been faster
            return problem


def _train(job: Job, interrupts: Interrupts) -> str:
    """Trains in a process of its own; returns why it did not finish, or nothing."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    command, environment = process_of(job.arguments, job.directory)
    with job.log.open("wb") as log:
        # In a session of its own, so that a Ctrl-C of the terminal reaches it once: a second one would end it unsaved.
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        while process.poll() is None and interrupts.signal is None:
            time.sleep(POLL)
        if interrupts.signal is not None:
            process.send_signal(interrupts.signal)
        status = process.wait()
    if status == 0:
        return "" if job.finished else "it stopped before its last step"
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line for line in lines if line.startswith(("error: ", "failed: "))]
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return said[-1].partition(": ")[2] if said else f"it ended with {how}"
