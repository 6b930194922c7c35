"""What the verbs share: options, the opening of a run directory, and log messages."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from transformer_jax.cli.overrides import apply_overrides
from transformer_jax.data.nearest import did_you_mean
from transformer_jax.runs.run import Run

CHANGEABLE = ("task.", "data.source.")
"""Beginnings of the fields that can be changed for a trained run: how it is scored, and on which data."""

FIELDS = """\
Fields of the run's task and of its data's source can be changed as in training, such as --task.decoding.beam-size 8 or
--data.source.directory DIR."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ValueError with one line, and names the nearest right option."""

    def __init__(self, verb: str, description: str, **settings: Any):
        style = argparse.RawDescriptionHelpFormatter
        prog = f"transformer-jax {verb}"
        super().__init__(prog=prog, description=description, formatter_class=style, allow_abbrev=False, **settings)

    def split(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """The verb's own options, and the other arguments: fields of the experiment."""
        options, rest = self.parse_known_args(arguments)
        own = [name for action in self._actions for name in action.option_strings]
        for argument in rest:
            near = did_you_mean(argument.partition("=")[0], own)
            # Fields have a dot in their names, the verb's own options have none.
            if argument.startswith("--") and argument != "--help" and "." not in argument and near:
                self.error(f"unknown option {argument}{near}")
        return options, rest

    def error(self, message: str) -> NoReturn:
        """Raises ValueError."""
        raise ValueError(f"{message} (see {self.prog} --help)")


def run_parser(verb: str, description: str) -> Parser:
    """Makes the parser of a verb that takes a run directory."""
    parser = Parser(verb, description, epilog=FIELDS)
    parser.add_argument("run", metavar="RUN", help="the run directory, such as runs/quickstart")
    add_checkpoint(parser)
    return parser


def add_checkpoint(parser: Parser) -> None:
    """Adds the choice of a run's parameters."""
    named = "last, best, ema, a step or average:N; default: train.checkpoint of the run"
    parser.add_argument("--checkpoint", help=named)


def add_utilisation(parser: Parser) -> None:
    """Adds what a time is estimated with."""
    parser.add_argument("--utilisation", type=share, default=0.4, help="assumed share of the peak; default: 0.4")


def share(text: str) -> float:
    """The number above 0 and at most 1 that a text is."""
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError(f"a share is above 0 and at most 1, not {text}")
    return float(text)


def open_run(parser: Parser, arguments: Sequence[str]) -> tuple[Run, argparse.Namespace]:
    """The run, with changes to fields of its task and its source, and the verb's own options."""
    options, overrides = parser.split(arguments)
    return changed_run(options.run, options, overrides, parser.prog), options


def changed_run(directory: str, options: argparse.Namespace, overrides: Sequence[str], prog: str) -> Run:
    """The run of a directory with changes to fields of its task and its source, the options' `scores` among them."""
    run = Run.open(directory)
    if isinstance(scores := getattr(options, "scores", None), list):
        overrides = ["--task.scores", *scores, *overrides]
    experiment = apply_overrides(run.experiment, overrides, prog, only=CHANGEABLE)
    sizes = {feature: tokenizer.vocab_size for feature, tokenizer in run.tokenizers.items()}
    model = experiment.task.resolve(experiment.model, experiment.data, sizes)
    return replace(run, experiment=replace(experiment, model=model))


class _Print(logging.Handler):
    """Prints to the standard output of the time."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), flush=True)


def show_log() -> None:
    """Prints messages of the package's modules, such as the attention kernel that they chose, from now on."""
    log = logging.getLogger("transformer_jax")
    if not any(isinstance(handler, _Print) for handler in log.handlers):
        log.addHandler(_Print())
        log.setLevel(logging.INFO)
        log.propagate = False  # libtpu gives the root a handler of its own
