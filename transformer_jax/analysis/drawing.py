"""What the pictures of numbers have in common: colours, axes, and a file that is there whole or not at all."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, BLUE, ORANGE = "#1f2937", "#6b7280", "#e5e7eb", "#2563eb", "#ea580c"


def quiet(axes: "Axes", *, frame: bool = False) -> None:
    """Faint lines behind the numbers, small labels; with `frame` the lines of the axes stay at the left and below."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    if not frame:
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_color(GRID)


def save(figure: "Figure", path: Path) -> Path:
    """Writes a PNG in one piece; returns its path."""
    partial = path.with_name(f"{path.name}.partial")
    figure.savefig(partial, format="png")
    return partial.replace(path)
