"""What `evaluate` and `compare` share: options of what is scored, and the examples."""

import argparse

from transformer_jax.cli.lines import read_aligned
from transformer_jax.cli.parser import Parser
from transformer_jax.data.sources import Example
from transformer_jax.runs.run import Run


def add_scoring(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("--split", default="test", help="test (the default), validation or train")
    parser.add_argument("--source", metavar="FILE", help="a file of inputs, a line each, instead of a split")
    help_reference = "the right outputs, line by line; given again, other right ones"
    parser.add_argument("--reference", metavar="FILE", action="append", help=help_reference)
    parser.add_argument("--scores", metavar="NAME", nargs="+", help="short for --task.scores, such as bleu ter")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def scored_examples(run: Run, options: argparse.Namespace) -> tuple[list[Example], dict[str, int]]:
    """The examples of the split or the files that are named, and the number of those skipped, by reason."""
    task, references = run.experiment.task, options.reference
    if (options.source is None) != (options.reference is None):
        raise ValueError("--source and --reference go together")
    if options.source is None:
        return run.examples(options.split)
    if len(task.features) != 2:
        raise ValueError(f"files give a source and a target, but the task has {', '.join(task.features)}")
    rows = zip(*read_aligned([options.source, *references]), strict=True)
    if len(references) == 1:
        return [dict(zip(task.features, row, strict=True)) for row in rows], {}
    name = next(iter(getattr(task, "references", ())), None)
    if name is None:
        raise ValueError(f"{type(task).__name__} is scored with one --reference; where task.references is set, several")
    return [dict(zip((*task.features, name), (source, right[0], right), strict=True)) for source, *right in rows], {}
