"""What the pictures of numbers have in common: colours, axes, and a file that is there whole or not at all."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, BLUE, ORANGE = "#1f2937", "#6b7280", "#e5e7eb", "#2563eb", "#ea580c"


def new_figure(width: float, height: float, *, pad: float = 0.04) -> "Figure":
    """A white figure of so many inches; its parts make room for each other's labels, with `pad` inches around them."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=pad, h_pad=pad)
    return Figure(figsize=(width, height), dpi=150, layout=layout, facecolor="white")


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
