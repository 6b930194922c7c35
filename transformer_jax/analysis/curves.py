"""`curves.png`: the metrics of a run over its steps."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer_jax.analysis.drawing import BLUE, INK, MUTED, ORANGE, new_figure, quiet, save
from transformer_jax.runs.metrics import read_metrics
from transformer_jax.runs.trackers import VALIDATION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = "curves.png"
_MAY_SPAN_DECADES = ("loss", "gradient_norm")


def draw_curves(directory: Path) -> Path | None:
    """Draws loss, validation scores, learning rate and gradient norm over the steps of a run.

    Returns the picture's path, or None, and keeps an older picture, if the run has logged nothing yet.
    """
    rows = read_metrics(directory)
    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row))
    scores = [name for name in names if name.startswith(VALIDATION) and name != f"{VALIDATION}loss"]
    small = scores + [name for name in ("learning_rate", "gradient_norm") if name in names]
    lines = math.ceil(len(small) / 4)
    heights = [1.7] + [1.0] * lines
    figure = new_figure(10.0, 2 * sum(heights) + 0.6, pad=0.1)
    figure.suptitle(directory.resolve().name, x=0.015, ha="left", color=INK, size=15, weight="bold", parse_math=False)
    figure.supxlabel("step", color=MUTED, size=9)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)

    # Validation has no label smoothing, so the training loss beside it is the one without, if the task gives it.
    _draw(figure.add_subplot(grid[0]), rows, {"nll" if "nll" in names else "loss": BLUE, "validation_loss": ORANGE})
    for line in range(lines):
        part = small[line * len(small) // lines : (line + 1) * len(small) // lines]
        places = grid[line + 1].subgridspec(1, len(part), wspace=0.08, hspace=0.1)
        for place, name in enumerate(part):
            _draw(figure.add_subplot(places[place]), rows, {name: ORANGE if name in scores else BLUE})

    return save(figure, directory / CURVES)


def _draw(axes: "Axes", rows: list[dict[str, Any]], metrics: dict[str, str]) -> None:
    """Draws a panel of metrics, each with its colour, name and last value; dots on the line are evaluations."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    drawn: list[float] = []
    for position, (name, color) in enumerate(metrics.items()):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        drawn += values
        marker = "o" if name.startswith(VALIDATION) or len(points) == 1 else None
        axes.plot(steps, values, color=color, linewidth=1.5, marker=marker, markersize=3.5, clip_on=False)
        text, align = f"{name.replace('_', ' ')}  {values[-1]:.4g}", "right" if position else "left"
        axes.text(position, 1.05, text, color=color, size=10, weight="bold", ha=align, transform=axes.transAxes)
    if drawn and 0 < 30 * min(drawn) < max(drawn) and not metrics.keys().isdisjoint(_MAY_SPAN_DECADES):
        axes.set_yscale("log")
    axes.set_xlim(0, rows[-1]["step"])
    axes.xaxis.set_major_locator(MaxNLocator(4 if len(metrics) == 1 else 8, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    quiet(axes)
    axes.set_axisbelow(True)
