"""`transformer-jax sweep EXPERIMENT.py --grid FIELD=A,B`: the same experiment with other values, as one table."""

import hashlib
import itertools
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from transformer_jax.analysis.plan import Plan, make_plan, topology
from transformer_jax.analysis.sweep_table import ORIGIN, scores_of, sweep_table
from transformer_jax.analysis.tables import draw_rows, shown, write_tables
from transformer_jax.cli.errors import UserError, user_input
from transformer_jax.cli.overrides import changed
from transformer_jax.cli.parser import Parser
from transformer_jax.data.fields import check_ranges
from transformer_jax.data.lines import one_line
from transformer_jax.parallel.chips import GIB
from transformer_jax.runs.checkpoint import storable
from transformer_jax.runs.experiment_file import load_experiment_file
from transformer_jax.runs.preparation import check_train
from transformer_jax.runs.sweep import Job, Row, run_jobs

EPILOG = """\
Every combination of the grids' values is a row, trained with each seed, one after another. Fields for all rows are
given as in training, such as --train.steps 500. Started again with the same directory, it skips the runs that have
finished and goes on in the others. The table stands in DIR as well, as table.csv, table.json and table.png."""

LONGEST = 200
"""Bytes of the name of a row's directory."""


def main(arguments: Sequence[str]) -> None:
    """Runs the rows, and prints their table."""
    parser = Parser("sweep", "Trains an experiment with several values of some fields.", epilog=EPILOG)
    parser.add_argument("experiment", metavar="EXPERIMENT.py", help="has a function experiment()")
    parser.add_argument("--grid", action="append", metavar="FIELD=A,B", help="values of a field; may be given again")
    parser.add_argument("--variant", metavar="NAME", help="another function of the file, such as small(), to call")
    add_running(parser)
    with user_input():
        options, overrides = parser.split(arguments)
        if not options.grid:
            parser.error("name at least one --grid, such as --grid model.d-model=64,128")
        directory = Path(options.workdir or Path("runs") / f"{Path(options.experiment).stem}_sweep")
        rows = list(grid_rows(options.grid))
        jobs = make_jobs(Path(options.experiment), options.variant, rows, overrides, directory, options, parser.prog)
    run_rows(jobs, options, directory, "table", lambda records: (records, scores_of(records), ""))


def add_running(parser: Parser) -> None:
    """Adds what verbs that train rows have in common."""
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of every row; default: 1")
    parser.add_argument("--workdir", metavar="DIR", help="the directory of the runs; default: one in runs/")
    parser.add_argument("--dry-run", action="store_true", help="only print the commands, and what each row would cost")


def grid_rows(grids: Sequence[str]) -> Iterator[Row]:
    """The rows of all combinations of `field=a,b`; ValueError for something else."""
    fields = []
    for grid in grids:
        field, equals, values = grid.removeprefix("--").partition("=")
        if not field or not equals or not all(values.split(",")):
            raise ValueError(f"--grid is FIELD=A,B such as model.d-model=64,128, not {grid!r}")
        field = field.replace("_", "-")
        if any(field == other for (other, _), *_ in fields):
            raise ValueError(f"--grid names {field} twice; give all its values at once")
        fields.append([(field, value) for value in values.split(",")])
    for chosen in itertools.product(*fields):
        name = ",".join(f"{field}={value}" for field, value in chosen)
        yield Row(name, tuple(word for field, value in chosen for word in (f"--{field}", value)))


def make_jobs(
    file: Path,
    variant: str | None,
    rows: Sequence[Row],
    overrides: Sequence[str],
    directory: Path,
    options: Namespace,
    prog: str,
) -> list[Job]:
    """The runs of all rows with all seeds, from the experiment's own on; ValueError for a row that cannot be trained.

    From now on this process computes on the CPU: accelerators belong to the processes that train.
    """
    if options.seeds < 1:
        raise ValueError(f"--seeds is at least 1, not {options.seeds}")
    jax.config.update("jax_platforms", "cpu")
    storable(directory)
    experiment = load_experiment_file(file, variant or "experiment")
    jobs = []
    for row in rows:
        given = (*overrides, *row.overrides)
        of_row = changed(experiment, given, None, directory, f"{prog} {file}")
        check_train(of_row)
        for seed in range(of_row.train.seed, of_row.train.seed + options.seeds):
            place = directory / folder(row.name) / f"seed_{seed}"
            words = (*given, "--train.seed", str(seed))
            chosen = replace(of_row, train=replace(of_row.train, seed=seed))
            check_ranges(chosen)
            named = ("--variant", variant) if variant else ()
            if any(job.directory == place for job in jobs):
                raise ValueError(f"two rows have the directory {place}: name every value once")
            jobs.append(Job(row, seed, place, ("train", str(file), *named, "--workdir", str(place), *words), chosen))
    return jobs


def folder(name: str) -> str:
    """The name of a row's directory: a long one, which file systems refuse, ends in its hash."""
    plain = name.replace("/", "_")
    if len(plain.encode()) <= LONGEST:
        return plain
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return f"{plain.encode()[: LONGEST - 1 - len(digest)].decode(errors='ignore')}-{digest}"


Summary = Callable[[list[dict[str, Any]]], tuple[list[dict[str, Any]], list[str], str]]
"""From the table of the runs to that of the command, the columns to draw, and what is said below."""


def run_rows(jobs: Sequence[Job], options: Namespace, directory: Path, name: str, summary: Summary) -> None:
    """Runs the jobs, then prints and writes their table; with `dry_run` only says what would be run.

    Raises SystemExit with 1 if a run failed.
    """
    if options.dry_run:
        dry_run(jobs)
        return
    if any(map(left, jobs)):
        with user_input():  # what is missing is missing for all
            jobs[0].experiment.data.source.fingerprint("train")
    problems = run_jobs(jobs, lambda line: print(line, flush=True))
    records, columns, note = summary(sweep_table(jobs, problems))
    print(shown(records, below=ORIGIN))
    if note:
        print(note)
    print(*write_tables(records, directory, name), sep="\n")
    if columns:
        print(draw_rows(records, columns, directory / f"{name}.png"))
    if problems:
        print(f"failed: {len(problems)} of {len(jobs)} runs, see the logs beside their directories", file=sys.stderr)
        raise SystemExit(1)


def left(job: Job) -> bool:
    """Whether there is something to do in a run, as far as its directory can be read."""
    try:
        return not job.finished
    except (OSError, ValueError):
        return True


def dry_run(jobs: Sequence[Job]) -> None:
    """Prints the commands of all runs and, by the plan of one step on one CPU, the cost of a run of each row."""
    for job in jobs:
        print(job)
    rows = [list(of_row) for _, of_row in itertools.groupby(jobs, key=lambda job: job.row)]
    print(f"compiling a step of {len(rows)} rows for what they cost, some seconds each", flush=True)
    devices, _ = topology("cpu:1")
    wrong = 0
    for job, *_ in rows:
        try:
            print(cost(job.row, make_plan(job.experiment, devices[:1])), flush=True)
        except (ValueError, OSError) as error:
            wrong += 1
            print(f"{job.row.name}: {one_line(error)}", flush=True)
    if wrong:
        raise UserError(f"{wrong} of {len(rows)} rows cannot be trained")


def cost(row: Row, plan: Plan) -> str:
    """What a run of this row costs, on one line."""
    steps = plan.experiment.train.steps
    return (
        f"{row.name}: at most {plan.parameters:,} parameters, "
        f"{plan.model_flops / 1e12:.4g} TFLOP for the largest batch, "
        f"{plan.model_flops * steps:.3g} FLOP at most in {steps:,} steps, {plan.bytes / GIB:.2f} GiB on one device"
    )
