"""`transformer-jax compare RUN_A RUN_B`: is one better than the other, or is it chance?"""

import json
from collections.abc import Sequence
from typing import Any

from transformer_jax.cli.errors import user_input
from transformer_jax.cli.parser import FIELDS, Parser, add_checkpoint, changed_run
from transformer_jax.cli.scoring import add_scoring, scored_examples
from transformer_jax.data.examples import digest
from transformer_jax.runs.comparison import compare

DESCRIPTION = """\
Scores two runs on the same examples, and says how often chance alone would make them differ so much: the p-value of
sacreBLEU's paired bootstrap (Koehn 2004). In brackets: mean and 95 % interval over the resampled examples."""


def main(arguments: Sequence[str]) -> None:
    """Prints a line for every score."""
    parser = Parser("compare", DESCRIPTION, epilog=FIELDS)
    parser.add_argument("runs", metavar="RUN", nargs=2, help="two run directories, such as runs/small runs/large")
    add_checkpoint(parser)
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the examples; default: 1000")
    add_scoring(parser)
    with user_input():
        options, overrides = parser.split(arguments)
        if options.resamples < 2:
            parser.error(f"--resamples is 2 at least, not {options.resamples}")
        first, second = (changed_run(place, options, overrides, parser.prog) for place in options.runs)
        (examples, _), (others, _) = (scored_examples(run, options) for run in (first, second))
        if digest(map(list, map(dict.values, examples))) != digest(map(list, map(dict.values, others))):
            where = f"the {options.split} examples of {first.directory} and {second.directory} differ"
            raise ValueError(f"{where}; give the same ones by --source and --reference")
        steps = first.checkpoint_steps(options.checkpoint), second.checkpoint_steps(options.checkpoint)
        found = compare((first, second), steps, examples, options.resamples)
    if options.json:
        print(json.dumps({"runs": options.runs, "checkpoints": steps, **found}, ensure_ascii=False))
        return
    for letter, place, at in zip("AB", options.runs, steps, strict=True):
        print(f"{letter}: {place}, step {', '.join(map(str, at))}")
    print(f"{found['examples']:,} examples, {found['skipped']:,} skipped, {found['resamples']:,} resamples")
    print(f"{'':<20} {'A':<24} {'B':<24} {'B - A':>8} {'p':>8}")
    for name, of_both in found["scores"].items():
        print(_row(name, of_both))


def _row(name: str, of_both: dict[str, Any]) -> str:
    """A line of the table."""
    numbers = zip(*(of_both[key] for key in ("scores", "means", "confidence")), strict=True)
    one, other = (f"{score:.2f} ({mean:.2f} ± {confidence:.2f})" for score, mean, confidence in numbers)
    difference = of_both["scores"][1] - of_both["scores"][0]
    return f"{name:<20} {one:<24} {other:<24} {difference:>+8.2f} {of_both['p_value']:>8.4f}"
