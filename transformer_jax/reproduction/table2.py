"""Table 2 of "Attention Is All You Need" (Vaswani et al. 2017): what training costs, in operations and in hours.

The paper multiplies its hours of training by the 8 P100 and by 9.5e12, the sustained float32 operations a second that
it takes for one of them: whatever those did in that time counts. Here the operations are counted: those of all matrix
products, forward and backward, in a step of 25,088 source and 25,088 target tokens (the paper has about 25,000) in
sentences of 32 tokens, times the number of steps. Their share of the paper's number is how well its GPUs were used.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformer_jax.analysis.drawing import BLUE, INK, ORANGE, new_figure, quiet, save
from transformer_jax.analysis.plan import make_plan, step_seconds
from transformer_jax.parallel.chips import CHIPS
from transformer_jax.training.experiment import Experiment

FILE = "experiments/paper/wmt14.py"
SENTENCE, TOKENS = 32, 25_088
GPUS, SUSTAINED = 8, 9.5e12


@dataclass(frozen=True)
class Trained:
    """A model of the table, as the paper reports it (of its last version, with 41.8 for big en-fr)."""

    name: str
    variant: str
    """The function of the experiment's file."""
    hours: float
    flops: float
    bleu_en_de: float
    bleu_en_fr: float


MODELS = (
    Trained("base", "en_de_base", 12.0, 3.3e18, 27.3, 38.1),
    Trained("big", "en_de_big", 84.0, 2.3e19, 28.4, 41.8),
)
MACHINES = {"v5e-8": ("v5e", 8), "v5p-8 (4 chips)": ("v5p", 4), "8 H100": ("h100", 8)}
"""Chip and number of chips of a machine; Google's name of a v5p counts two cores a chip."""


def as_counted(experiment: Experiment) -> Experiment:
    """The experiment with the paper's batch."""
    data = replace(experiment.data, max_length=SENTENCE, tokens_per_batch=TOKENS, batch_multiple=8)
    return replace(experiment, data=data)


def table(experiments: Sequence[Experiment], devices: Sequence[Any], utilisation: float) -> Iterator[dict[str, Any]]:
    """A row for each of `MODELS`, whose experiments these are; the step is compiled for simulated devices."""
    for paper, experiment in zip(MODELS, map(as_counted, experiments), strict=True):
        plans = {count: make_plan(experiment, devices[:count]) for count in {count for _, count in MACHINES.values()}}
        plan, steps = plans[GPUS], experiment.train.steps
        counted = plan.model_flops * steps
        hours = {
            f"hours on {name}": step_seconds(plans[count], CHIPS[chip], utilisation) * steps / 3600
            for name, (chip, count) in MACHINES.items()
        }
        yield {
            "model": paper.name,
            "BLEU en-de (paper)": paper.bleu_en_de,
            "BLEU en-fr (paper)": paper.bleu_en_fr,
            "FLOP (paper)": paper.flops,
            "hours x 8 x 9.5e12 FLOP/s": paper.hours * 3600 * GPUS * SUSTAINED,
            "FLOP counted": counted,
            "share": counted / paper.flops,
            "parameters": plan.parameters,
            "steps": steps,
            "hours on 8 P100 (paper)": paper.hours,
            **hours,
        }


def draw(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Draws operations, the paper's and counted, and hours on all machines, in powers of ten."""
    figure = new_figure(10.0, 2.6)
    panels = {
        "FLOP of training": {"paper": "FLOP (paper)", "counted": "FLOP counted"},
        "hours of training": {name.removeprefix("hours on "): name for name in rows[0] if name.startswith("hours on ")},
    }
    for axes, (title, names) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for row, color in zip(rows, (BLUE, ORANGE), strict=True):
            values = [row[name] for name in names.values()]
            axes.semilogx(values, range(len(names)), "o", color=color, label=row["model"])
        axes.set_yticks(range(len(names)), list(names))
        axes.invert_yaxis()
        axes.margins(y=0.3)
        axes.set_title(title, color=INK, size=11, loc="left")
        quiet(axes)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return save(figure, path)


def verdict(rows: Sequence[dict[str, Any]], utilisation: float) -> str:
    """Why the numbers differ, and what the hours assume."""
    shares = " and ".join(f"{100 * row['share']:.0f} % ({row['model']})" for row in rows)
    return (
        "The paper multiplies hours by what its GPUs can sustain; matrix products alone are counted here, and are "
        f"{shares} of that.\nHours are estimated, not measured: {100 * utilisation:.0f} % of the peak for matrix "
        "products in bfloat16, or memory or messages as a CPU's compiler lays the step out, where those take longer."
    )
