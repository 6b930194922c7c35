"""The table of a sweep: scores, size, time and origin of every row, over its seeds."""

import itertools
import math
import numbers
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer_jax.analysis.tables import Measured, Record
from transformer_jax.data.lines import one_line
from transformer_jax.runs.metrics import METRICS, read_metrics
from transformer_jax.runs.result import RESULT, origin_of, read_result
from transformer_jax.runs.run import Run
from transformer_jax.runs.sweep import Job
from transformer_jax.runs.trackers import VALIDATION
from transformer_jax.tasks.task import COUNTS

ORIGIN = ("device", "commit", "signature")
"""Columns that say what made the numbers."""
FINAL = "final_"
"""In front of the scores of `result.json`, where the last evaluation has others of that split."""


def sweep_table(jobs: Sequence[Job], problems: Mapping[Path, str]) -> list[dict[str, Any]]:
    """A record for every row: its overrides, seeds that have finished, scores, parameters, seconds, origin, problem.

    Scores are those of the last evaluation in training, `validation_...`, and those of `result.json`, such as
    `test_...` or `final_validation_...`; NaN where a seed that has finished lacks one. Seconds are those of training
    steps, without compilations, evaluations and checkpoints.
    """
    return [_record(list(of_row), problems) for _, of_row in itertools.groupby(jobs, key=lambda job: job.row)]


def scores_of(records: Sequence[Record]) -> list[str]:
    """The columns of scores."""
    names = dict.fromkeys(name for record in records for name, value in record.items() if isinstance(value, Measured))
    return [name for name in names if name != "seconds"]


def _record(jobs: list[Job], problems: Mapping[Path, str]) -> dict[str, Any]:
    results: list[Mapping[str, Any]] = []
    found: list[Mapping[str, float]] = []
    reasons = [problems[job.directory] for job in jobs if job.directory in problems]
    parameters = None
    for job in jobs:
        try:
            if job.finished and (result := read_result(job.directory)) is not None:
                found.append(_numbers(job.directory, result))
                parameters = Run.open(job.directory).experiment.model.num_parameters()
                results.append(result)
        except (OSError, ValueError) as error:
            reasons.append(one_line(error))
    record: dict[str, Any] = {"row": jobs[0].row.name, "overrides": shlex.join(jobs[0].row.overrides)}
    record["finished"] = f"{len(results)} of {len(jobs)}"
    for name in dict.fromkeys(name for one in found for name in one):
        record[name] = Measured(tuple(one.get(name, math.nan) for one in found))
    record["parameters"] = parameters
    texts = [value for result in results for value in result["scores"].values() if isinstance(value, str)]
    devices = [f"{result['devices']} x {result['device']}" for result in results]
    origins = [origin_of(result["commit"], result.get("version", "")) for result in results]
    for name, values in zip(ORIGIN, (devices, origins, texts), strict=True):
        record[name] = "; ".join(dict.fromkeys(values))
    record["problem"] = "; ".join(dict.fromkeys(reasons))
    return record


def _numbers(directory: Path, result: Record) -> dict[str, float]:
    """The scores and seconds of a run; ValueError where its metrics end before the checkpoint that was scored."""
    rows = read_metrics(directory)
    if not rows or rows[-1]["step"] < max(result["checkpoint"]):
        raise ValueError(f"{directory / METRICS} has lost rows: it ends before the checkpoint of {RESULT}")
    found = {name: value for row in rows for name, value in row.items() if name.startswith(VALIDATION)}
    # Not under the name of the last evaluation, which may be of other parameters.
    split = f"{FINAL}{result['split']}" if f"{result['split']}_" == VALIDATION else result["split"]
    found |= {f"{split}_{name}": value for name, value in result["scores"].items() if name not in COUNTS}
    timed = [row for row in rows if row.get("tokens_per_second") and row.get("tokens")]
    found["seconds"] = sum(row["tokens"] / row["tokens_per_second"] for row in timed)
    return {name: float(value) for name, value in found.items() if isinstance(value, numbers.Real)}
