"""Table 4 of "Attention Is All You Need": constituency parsing, beside trees that branch to one side alone."""

import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer_jax.analysis.tables import Measured
from transformer_jax.data.lines import json_object, write_whole
from transformer_jax.runs.run import Run
from transformer_jax.runs.sweep import process_of

FILE = "experiments/paper/parsing.py"
SCALES = {"built_in": "built_in", "gum": "small", "wsj": None}
"""Variants of the experiment: a small grammar, GUM's treebank with a small model, the paper's own."""
PAPER = {"row": "the paper, WSJ section 23, trained on WSJ alone", "F1": 91.3}
BASELINES = {"trees that branch to the right": "right_branching", "to the left": "left_branching"}
NAMES = {"F1": "f1", "precision": "precision", "recall": "recall", "complete": "complete_match"}
NAMES |= {"tags": "tag_accuracy", "malformed": "malformed", "wrong leaves": "wrong_leaves"}
"""Scores of the task by the names of their columns."""
SEARCHES = {"search over all texts, repaired": False, "over trees of the words": True}
MOST = 1e9
"""Above all scores and counts."""
NOTE = "F1 of other trees does not compare with the paper's; what the rows show is what they bring on the same trees."


def table(directories: Sequence[Path], split: str) -> list[dict[str, Any]]:
    """The scores of trained runs, searched freely and held to trees over the words, and those of the baselines.

    Runs differ in their seeds alone.
    """
    rows: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for row in SEARCHES:
        scores = [scored(directory, split, row) for directory in directories]
        means = {name: Measured(tuple(float(of_run[of]) for of_run in scores)) for name, of in NAMES.items()}
        rows.append({"row": row, **means, "examples": scores[0]["examples"]})
    for row, name in BASELINES.items():
        rows.append({"row": row, "F1": scores[0][f"{name}_f1"], "examples": scores[0]["examples"]})
    return [*rows, PAPER]


def scored(directory: Path, split: str, row: str) -> dict[str, Any]:
    """The scores of a run's parser for a row of `SEARCHES`, which are kept beside it.

    They are those of `evaluate` in a process of its own, which takes the accelerator.
    Raises RuntimeError if that fails.
    """
    well_formed = SEARCHES[row]
    kept = directory / f"{split}_{'trees' if well_formed else 'texts'}.json"
    run = Run.open(directory)
    of = {"experiment": repr(run.experiment), "checkpoint": run.checkpoint_steps(None)}
    if scores := _kept(kept, of):
        return scores
    asked = [str(directory), "--split", split, "--task.well-formed", str(well_formed), "--json"]
    command, environment = process_of(["evaluate", *asked], directory)
    print(f"scoring {directory}: {row}", flush=True)
    try:
        found = subprocess.run(command, stdout=subprocess.PIPE, env=environment)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from there", flush=True)
        raise
    if found.returncode:
        raise RuntimeError(f"evaluate {shlex.join(asked)} ended with status {found.returncode}")
    scores = json.loads(found.stdout) | of
    write_whole(kept, json.dumps(scores).encode())
    return scores


def _kept(path: Path, of: dict[str, Any]) -> dict[str, Any] | None:
    """The scores in a file, if all that the table shows is there, `of` the same experiment and checkpoint."""
    try:
        scores = json_object(path.read_bytes(), str(path))
    except (OSError, ValueError):
        return None
    needed = (*NAMES.values(), *(f"{name}_f1" for name in BASELINES.values()), "examples")
    values = [scores.get(name) for name in needed]
    whole = all(isinstance(value, int | float) and 0 <= value < MOST for value in values)
    return scores if whole and scores | of == scores else None
