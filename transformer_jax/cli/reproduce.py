"""`transformer-jax reproduce table3`: the tables and figures of "Attention Is All You Need", by name."""

from collections.abc import Sequence
from pathlib import Path

from transformer_jax.cli.errors import UserError, user_input
from transformer_jax.cli.overrides import changed
from transformer_jax.cli.parser import Parser
from transformer_jax.cli.sweep import add_running, make_jobs, run_rows
from transformer_jax.data.nearest import did_you_mean
from transformer_jax.reproduction import table3 as variations
from transformer_jax.runs.experiment_file import load_experiment_file

EPILOG = """\
Rows are the base experiment of a scale with other values of some fields; --dry-run prints the commands. Fields for
all rows are given as in training, such as --data.source.directory DIRECTORY. Started again with the same directory, it
skips the runs that have finished and goes on in the others. docs/REPRODUCTION.md says what each scale can claim."""


def main(arguments: Sequence[str]) -> None:
    """Runs the function of the table or figures that the first argument names."""
    name = arguments[0] if arguments else "--help"
    if name in TARGETS:
        TARGETS[name](arguments[1:])
    elif name in ("-h", "--help"):
        print('usage: transformer-jax reproduce NAME ...    of "Attention Is All You Need"; NAME --help says more\n')
        for target, function in TARGETS.items():
            print(f"  {target:<8} {(function.__doc__ or '').splitlines()[0]}")
        raise SystemExit(0)
    else:
        near = did_you_mean(name, TARGETS)
        raise UserError(f"there is no {name} to reproduce{near}; there are {', '.join(TARGETS)}")


def table3(arguments: Sequence[str]) -> None:
    """Variations of the base model: perplexity, BLEU and parameters, and the signs of their changes."""
    parser = Parser("reproduce table3", "Trains variations of the base model.", epilog=EPILOG)
    parser.add_argument("--scale", choices=variations.SCALES, default="dates", help="the experiment; default: dates")
    parser.add_argument("--rows", metavar="A,B", help="groups or rows, such as A,C-N2; base is always among them")
    add_running(parser)
    with user_input():
        options, overrides = parser.split(arguments)
        scale, chosen = variations.SCALES[options.scale], variations.chosen(options.rows)
        file, words = experiment_file(scale.file), [*scale.overrides, *overrides]
        directory = Path(options.workdir or Path("runs") / f"table3_{options.scale}")
        base = load_experiment_file(file, scale.variant or "experiment")
        base = changed(base, words, None, directory, parser.prog)
        rows = [variations.row(variation, base) for variation in chosen]
        jobs = make_jobs(file, scale.variant, rows, words, directory, options, parser.prog)
    panels = ["PPL (paper)", "PPL", "BLEU (paper)", scale.score]

    def summary(records):
        table = variations.with_paper(chosen, records, scale.score)
        return table, panels, variations.verdict(table, scale.score)

    run_rows(jobs, options, directory, "table3", summary)


def experiment_file(name: str) -> Path:
    """The file of this checkout, as it is called from the working directory; FileNotFoundError where there is none."""
    here = Path(name)
    there = Path(__file__).resolve().parents[2] / name
    if not here.is_file() and not there.is_file():
        raise FileNotFoundError(f"there is no {name}; reproduce needs a checkout of the repository, which has it")
    return here if here.is_file() else there


TARGETS = {"table3": table3}
"""What can be reproduced, by name."""
