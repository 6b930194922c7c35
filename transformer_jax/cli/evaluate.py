"""`transformer-jax evaluate RUN`: the task's scores on a split, or on files; of several runs, as an ensemble."""

import json
from collections.abc import Sequence
from typing import Any

from transformer_jax.cli.errors import user_input
from transformer_jax.cli.parser import open_run, run_parser
from transformer_jax.cli.scoring import add_scoring, scored_examples
from transformer_jax.runs.evaluation import evaluate
from transformer_jax.runs.metrics import as_json
from transformer_jax.runs.run import Run


def main(arguments: Sequence[str]) -> None:
    """Prints scores, and the steps whose parameters (or their mean) gave them."""
    parser = run_parser("evaluate", "Scores a run on one of its splits, or on files.")
    parser.add_argument("others", metavar="RUN", nargs="*", help="more runs: the mean of all models' probabilities")
    add_scoring(parser)
    with user_input():
        run, options = open_run(parser, arguments)
        examples, skipped = scored_examples(run, options)
        steps = run.checkpoint_steps(options.checkpoint)
        opened = list(map(Run.open, options.others))
        if len({one.directory.resolve() for one in (run, *opened)}) <= len(opened):
            raise ValueError("an ensemble is of different runs, and one is named twice")
        others = [(other, other.checkpoint_steps(options.checkpoint)) for other in opened]
        scores: dict[str, Any] = {"checkpoint": steps, **evaluate(run, steps, examples, others)}
    if others:
        scores["ensemble"] = {str(one.directory): of for one, of in ((run, steps), *others)}
    if skipped:
        scores["skipped"] = scores.get("skipped", 0) + sum(skipped.values())
    if options.json:
        print(json.dumps({name: as_json(value) for name, value in scores.items()}, ensure_ascii=False, allow_nan=False))
        return
    names = {"checkpoint": "; ".join(map(str, (steps, *(of for _, of in others))))}
    names |= {"ensemble": " ".join(scores["ensemble"])} if others else {}
    for name, value in {**scores, **names}.items():
        print(f"{name:<20} {value:.4g}" if isinstance(value, float) else f"{name:<20} {value}")
