"""Table 4 of "Attention Is All You Need": constituency parsing, beside trees that branch to one side alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformer_jax.runs.evaluation import evaluate
from transformer_jax.runs.run import Run
from transformer_jax.tasks.parsing import Parsing

FILE = "experiments/paper/parsing.py"
SCALES = {"built_in": "built_in", "gum": "small", "wsj": None}
"""Variants of the experiment: a small grammar, GUM's treebank at a size for CPUs, the paper's own."""
PAPER = {"row": "the paper, WSJ section 23, trained on WSJ alone", "F1": 91.3}
BASELINES = {"trees that branch to the right": "right_branching", "to the left": "left_branching"}


def table(directory: Path, split: str) -> Iterator[dict[str, Any]]:
    """The scores of a trained run, searched freely and held to trees over the words, and those of the baselines."""
    run = Run.open(directory)
    examples, _ = run.examples(split)
    steps = run.checkpoint_steps(None)
    names = {"F1": "f1", "precision": "precision", "recall": "recall", "complete": "complete_match"}
    names |= {"malformed": "malformed", "wrong leaves": "wrong_leaves", "examples": "examples"}
    scores: dict[str, Any] = {}
    for row, well_formed in (("search over all texts, repaired", False), ("over trees of the words", True)):
        task = run.experiment.task
        if not isinstance(task, Parsing):
            raise ValueError(f"table 4 is of Parsing, not of {type(task).__name__}")
        chosen = replace(run.experiment, task=replace(task, well_formed=well_formed))
        scores = evaluate(replace(run, experiment=chosen), steps, examples)
        yield {"row": row} | {name: scores[of] for name, of in names.items()}
    for row, name in BASELINES.items():
        yield {"row": row, "F1": scores[f"{name}_f1"], "examples": scores["examples"]}
    yield PAPER
