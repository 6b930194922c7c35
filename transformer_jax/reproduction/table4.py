"""Table 4 of "Attention Is All You Need": constituency parsing, beside trees that branch to one side alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformer_jax.analysis.tables import Measured
from transformer_jax.data.sources import Example
from transformer_jax.runs.evaluation import evaluate
from transformer_jax.runs.run import Run
from transformer_jax.tasks.parsing import Parsing

FILE = "experiments/paper/parsing.py"
SCALES = {"built_in": "built_in", "gum": "small", "wsj": None}
"""Variants of the experiment: a small grammar, GUM's treebank at a size for CPUs, the paper's own."""
PAPER = {"row": "the paper, WSJ section 23, trained on WSJ alone", "F1": 91.3}
BASELINES = {"trees that branch to the right": "right_branching", "to the left": "left_branching"}


NAMES = {"F1": "f1", "precision": "precision", "recall": "recall", "complete": "complete_match"}
NAMES |= {"malformed": "malformed", "wrong leaves": "wrong_leaves"}
"""Scores of the task by the names of their columns."""
SEARCHES = {"search over all texts, repaired": False, "over trees of the words": True}


def table(directories: Sequence[Path], split: str) -> list[dict[str, Any]]:
    """The scores of trained runs, searched freely and held to trees over the words, and those of the baselines.

    Runs differ in their seeds alone.
    """
    runs = [Run.open(directory) for directory in directories]
    examples, _ = runs[0].examples(split)
    count = {"examples": len(examples)}
    rows: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for row, well_formed in SEARCHES.items():
        scores = [scored(run, examples, well_formed) for run in runs]
        means = {name: Measured(tuple(float(of_run[of]) for of_run in scores)) for name, of in NAMES.items()}
        rows.append({"row": row, **means} | count)
    for row, name in BASELINES.items():
        rows.append({"row": row, "F1": scores[0][f"{name}_f1"]} | count)
    return [*rows, PAPER]


def scored(run: Run, examples: list[Example], well_formed: bool) -> dict[str, Any]:
    """The scores of a run's parser, held to trees over the words or not."""
    task = run.experiment.task
    if not isinstance(task, Parsing):
        raise ValueError(f"table 4 is of Parsing, not of {type(task).__name__}")
    chosen = replace(run.experiment, task=replace(task, well_formed=well_formed))
    return evaluate(replace(run, experiment=chosen), run.checkpoint_steps(None), examples)
