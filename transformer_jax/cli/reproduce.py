"""`transformer-jax reproduce table3`: the tables and figures of "Attention Is All You Need", by name."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformer_jax.analysis.attention_maps import draw_attention
from transformer_jax.analysis.plan import topology
from transformer_jax.analysis.sweep_table import ORIGIN
from transformer_jax.analysis.tables import shown, write_tables
from transformer_jax.cli.errors import UserError, user_input
from transformer_jax.cli.overrides import changed
from transformer_jax.cli.parser import Parser, add_checkpoint, add_utilisation
from transformer_jax.cli.sweep import add_running, make_jobs, run_rows
from transformer_jax.data.nearest import did_you_mean
from transformer_jax.data.sources import check_split
from transformer_jax.reproduction import figures, table1, table2, table3, table4
from transformer_jax.runs.experiment_file import load_experiment_file
from transformer_jax.runs.result import commit, device_name, origin_of
from transformer_jax.runs.run import Run
from transformer_jax.runs.sweep import Row
from transformer_jax.tasks.translation import Translator
from transformer_jax.version import __version__

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
        near = did_you_mean(name, TARGETS) or f"; there are {', '.join(TARGETS)}"
        raise UserError(f"there is no {name} to reproduce{near}")


def reproduce_table3(arguments: Sequence[str]) -> None:
    """Variations of the base model: perplexity, BLEU and parameters, and the signs of their changes."""
    parser = Parser("reproduce table3", "Trains variations of the base model.", epilog=EPILOG)
    parser.add_argument("--scale", choices=table3.SCALES, default="dates", help="the experiment; default: dates")
    parser.add_argument("--rows", metavar="A,B", help="groups or rows, such as A,C-N2; base is always among them")
    add_running(parser)
    with user_input():
        options, overrides = parser.split(arguments)
        scale, chosen = table3.SCALES[options.scale], table3.chosen(options.rows)
        file, words = experiment_file(scale.file), [*scale.overrides, *overrides]
        directory = Path(options.workdir or Path("runs") / f"table3_{options.scale}")
        base = load_experiment_file(file, scale.variant or "experiment")
        base = changed(base, words, None, directory, parser.prog)
        rows = [table3.row(variation, base) for variation in chosen]
        jobs = make_jobs(file, scale.variant, rows, words, directory, options, parser.prog)
    panels = ["PPL (paper)", "PPL", "BLEU (paper)", scale.score]

    def summary(records):
        table = table3.with_paper(chosen, records, scale.score)
        return table, panels, f"{table3.verdict(table, scale.score)}\n{scale.note}"

    if options.dry_run:
        firsts = zip(chosen, jobs[:: options.seeds], strict=True)
        print(shown([table3.planned(one, job.row, job.experiment) for one, job in firsts]))
        print(scale.note)
    run_rows(jobs, options, directory, "table3", summary)


def reproduce_table1(arguments: Sequence[str]) -> None:
    """Time and memory of kinds of layers over the length of a text, measured on this machine."""
    sizes = table1.Sizes()
    parser = Parser("reproduce table1", "Measures kinds of layers, forward and backward, on the first device.")
    parser.add_argument("--longest", type=int, default=sizes.lengths[-1], metavar="N", help="default: %(default)s")
    parser.add_argument("--width", type=int, default=sizes.width, metavar="D", help="default: %(default)s")
    parser.add_argument("--heads", type=int, default=sizes.heads, metavar="H", help="default: %(default)s")
    parser.add_argument("--workdir", metavar="DIR", default="runs/table1", help="for table1.csv, .json and .png")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be measured")
    with user_input():
        options = parser.parse_args(arguments)
        lengths = tuple(length for length in sizes.lengths if length <= options.longest)
        if len(lengths) < 2 or options.heads < 1 or options.width < 1:
            parser.error(f"--longest is at least {sizes.lengths[1]}, --heads and --width are at least 1")
        sizes = replace(sizes, lengths=lengths, width=options.width, heads=options.heads)
    names = ", ".join(layer.name for layer in table1.layers(sizes))
    print(f"layers of width {sizes.width}: {names}; n = {', '.join(map(str, lengths))}, on {device_name()}", flush=True)
    if options.dry_run:
        return
    measured = []
    for line in table1.measure(sizes):
        print(f"n = {line['n']:,}, {line['layer']}: {line['milliseconds']:.4g} ms", flush=True)
        measured.append(line)
    origin = origin_of(commit(), __version__)
    for column in ("milliseconds", "MiB"):
        print(shown(table1.table(measured, sizes, column)))
    print(f"d = {sizes.width}, k = {sizes.kernel}, r = {sizes.neighbourhood}; {device_name()}; {origin}")
    directory = Path(options.workdir)
    made = {"width": sizes.width, "heads": sizes.heads, "device": device_name(), "commit": origin}
    print(*write_tables([line | made for line in measured], directory, "table1"), sep="\n")
    print(table1.draw(measured, sizes, directory / "table1.png"))


def reproduce_table2(arguments: Sequence[str]) -> None:
    """Operations of training the base and the big model, counted, and hours on other machines, estimated."""
    parser = Parser("reproduce table2", "Counts a step's operations, and estimates its time from published peaks.")
    add_utilisation(parser)
    parser.add_argument("--workdir", metavar="DIR", default="runs/table2", help="for table2.csv, .json and .png")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be counted")
    with user_input():
        options = parser.parse_args(arguments)
        file = experiment_file(table2.FILE)
        experiments = [load_experiment_file(file, paper.variant) for paper in table2.MODELS]
        devices, _ = topology(f"cpu:{table2.GPUS}")
    of = f"{' and '.join(paper.name for paper in table2.MODELS)} for {', '.join(table2.MACHINES)}"
    print(f"a step of {of}, compiled for {len(devices)} simulated devices: a minute or two", flush=True)
    if options.dry_run:
        return
    rows = list(table2.table(experiments, devices, options.utilisation))
    print(shown([*across(rows)]))
    print(table2.verdict(rows, options.utilisation))
    directory = Path(options.workdir)
    print(*write_tables(rows, directory, "table2"), sep="\n")
    print(table2.draw(rows, directory / "table2.png"))


def reproduce_table4(arguments: Sequence[str]) -> None:
    """Constituency parsing: F1 of a trained model, searched freely and held to trees, beside baselines."""
    parser = Parser("reproduce table4", "Trains a parser and scores its trees.", epilog=EPILOG)
    parser.add_argument("--scale", choices=table4.SCALES, default="built_in", help="the trees; default: built_in")
    parser.add_argument("--split", default="validation", help="what is scored: validation (the default) or test")
    add_running(parser)
    with user_input():
        options, overrides = parser.split(arguments)
        directory = Path(options.workdir or Path("runs") / f"table4_{options.scale}")
        file, rows = experiment_file(table4.FILE), [Row(options.scale)]
        jobs = make_jobs(file, table4.SCALES[options.scale], rows, overrides, directory, options, parser.prog)
        check_split(jobs[0].experiment.data.source, options.split)

    def summary(records):
        directories = [job.directory for job in jobs if job.finished]
        if not directories:
            return records, [], ""
        scored = table4.table(directories, options.split)
        trained = {name: records[0].get(name) for name in ("finished", "parameters", "seconds", *ORIGIN, "problem")}
        return [scored[0] | trained, *scored[1:]], ["F1"], table4.NOTE

    run_rows(jobs, options, directory, "table4", summary)


def reproduce_figures(arguments: Sequence[str]) -> None:
    """Heads of a trained translation run: long distances, anaphora and sentence structure, drawn."""
    parser = Parser("reproduce figures", figures.__doc__ or "")
    parser.add_argument("sentences", metavar="SENTENCE", nargs="*", help="sources; default: the paper's two sentences")
    parser.add_argument("--workdir", metavar="RUN", required=True, help="the run directory of a translation")
    add_checkpoint(parser)
    parser.add_argument("--output", metavar="DIR", help="default: RUN/figures")
    with user_input():
        options = parser.parse_args(arguments)
        run = Run.open(options.workdir)
        predictor, directory = run.predictor(options.checkpoint), Path(options.output or run.directory / "figures")
        if not isinstance(predictor, Translator):
            raise ValueError(f"figures are of a Translation, not of {type(run.experiment.task).__name__}")
        directory.mkdir(parents=True, exist_ok=True)
        for number, sentence in enumerate(options.sentences or figures.SENTENCES, 1):
            try:
                attention = predictor.attention(sentence)[0]
            except ValueError as error:
                own = f'reproduce figures "SENTENCE" --workdir {options.workdir}'
                given = "" if options.sentences else f"; give sentences of your own: {own}"
                raise ValueError(f"{sentence!r}: {error}{given}") from None
            chosen = list(figures.figures(attention))
            png, html = directory / f"sentence_{number}.png", directory / f"sentence_{number}.html"
            draw_attention([figures.picture(attention, one) for one in chosen], png, html)
            print(sentence, *(f"  {one}" for one in chosen), png, html, sep="\n")


def across(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A table with rows and columns exchanged, for one with many columns and few rows."""
    first, *others = rows[0]
    for name in others:
        yield {first: name} | {str(row[first]): row[name] for row in rows}


def experiment_file(name: str) -> Path:
    """The file of this checkout, as it is called from the working directory; FileNotFoundError where there is none."""
    here = Path(name)
    there = Path(__file__).resolve().parents[2] / name
    if not here.is_file() and not there.is_file():
        where = "start reproduce in a checkout of the repository, or install one with pip install -e ."
        raise FileNotFoundError(f"there is no {name}; {where}")
    return here if here.is_file() else there


TARGETS = {
    "table1": reproduce_table1,
    "table2": reproduce_table2,
    "table3": reproduce_table3,
    "table4": reproduce_table4,
    "figures": reproduce_figures,
}
"""What can be reproduced, by name."""
