"""Attention weights as a picture and as an interactive page."""

import json
import math
import warnings
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from transformer_jax.analysis.drawing import INK, MUTED
from transformer_jax.tasks.predictor import AttentionMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ["#eef2f9", "#93b4f0", "#2f5fd0", "#14235c"]
_MARGIN = 20.0
_MOST_AREA = 4e6  # of all maps in square points; at two pixels a point 16 megapixels, whatever the model and sentence


def draw_attention(maps: Sequence[AttentionMap], png: Path, html: Path) -> None:
    """Draws all layers and heads to a PNG, and writes them as one HTML page that loads nothing else."""
    _draw_picture(maps, png)
    html.write_text(_page(maps), encoding="utf-8")


def _visible(token: str) -> str:
    """The token as a label, in which spaces and control characters are visible and have no effect."""
    token = token.replace(" ", "␣")
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in token)


def _page(maps: Sequence[AttentionMap]) -> str:
    """The page. Tokens may be anybody's text: they enter it only as JSON without any `<`, and are shown as text."""
    kinds = []
    for kind in maps:
        rows, columns = map(_visible, kind.queries), map(_visible, kind.keys)
        thousandths = np.rint(1000 * kind.weights).astype(int).tolist()
        numbers = {"layers": [*kind.layers], "heads": [*kind.heads]}
        kinds.append(
            {"title": kind.title, "rows": [*rows], "columns": [*columns], "thousandths": thousandths} | numbers
        )
    data = json.dumps(kinds, separators=(",", ":")).replace("<", "\\u003c")
    template = resources.files("transformer_jax.analysis").joinpath("attention_page.html").read_text(encoding="utf-8")
    return template.replace("ATTENTION_DATA", data)


def _draw_picture(maps: Sequence[AttentionMap], png: Path) -> None:
    """One section for each kind of attention, in it a row for each layer and a column for each head; in points."""
    from matplotlib.figure import Figure

    shapes = [kind.weights.shape for kind in maps]
    wide = max(heads * (keys + 1) for _, heads, _, keys in shapes)
    high = sum(layers * (queries + 1) for layers, _, queries, _ in shapes)
    cell = max(math.floor(2 * min(18, math.sqrt(_MOST_AREA / (wide * high)))) / 2, 0.5)
    figure = Figure(dpi=144, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    right, bottom = 420.0, _MARGIN
    for kind in maps:
        end, bottom = _draw_section(axes, bottom, cell, kind)
        right = max(right, end)
    _show(axes, np.linspace(0, 1, 90)[None], right - 104, _MARGIN + 2, 90.0, 9.0)  # the scale of colours
    axes.text(right - 110, _MARGIN, "weight  0", size=9, color=MUTED, ha="right", va="top")
    axes.text(right, _MARGIN, "1", size=9, color=MUTED, ha="right", va="top")
    axes.set(xlim=(0, right + _MARGIN), ylim=(bottom, 0))
    axes.axis("off")
    figure.set_size_inches((right + _MARGIN) / 72, bottom / 72)
    with warnings.catch_warnings():  # of scripts that no installed font has (boxes stand for them) or that need shaping
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(png, format="png")


def _draw_section(axes: "Axes", top: float, cell: float, kind: AttentionMap) -> tuple[float, float]:
    """Draws one kind of attention below `top`; returns its right and lower edge."""
    weights, rows, columns = kind.weights, _short(kind.queries), _short(kind.keys)
    size = min(max(0.8 * cell, 3.5), 10)
    every = math.ceil(size / cell)  # where cells are smaller than letters, only some of them are named
    style = {"size": size, "color": INK, "family": _families("".join(rows + columns)), "parse_math": False}
    beside, below = (0.7 * size * max(map(len, names)) + 8 for names in (rows, columns))
    left, gap = _MARGIN + 14 + beside, max(cell, 8)
    high, wide = cell * len(rows), cell * len(columns)
    axes.text(_MARGIN, top, kind.title, size=15, weight="bold", color=INK, va="top")
    top += 42
    for layer, heads in enumerate(weights):
        y = top + layer * (high + gap)
        axes.text(_MARGIN, y + high / 2, f"layer {kind.layers[layer]}", size=9, color=MUTED, rotation=90, va="center")
        for row in range(0, len(rows), every):
            axes.text(left - 4, y + (row + 0.5) * cell, rows[row], ha="right", va="center_baseline", **style)
        for head, map_ in enumerate(heads):
            _show(axes, map_, left + head * (wide + gap), y, wide, high)
    bottom = top + len(weights) * (high + gap) - gap
    for head in range(weights.shape[1]):
        x = left + head * (wide + gap)
        axes.text(x + wide / 2, top - 5, f"head {kind.heads[head]}", size=9, color=MUTED, ha="center")
        for column in range(0, len(columns), every):
            place = x + (column + 0.5) * cell
            axes.text(place, bottom + 4, columns[column], rotation=90, ha="center", va="top", **style)
    return left + weights.shape[1] * (wide + gap) - gap, bottom + below + 24


def _show(axes: "Axes", weights: np.ndarray, x: float, y: float, width: float, height: float) -> None:
    """Weights as colours, by their square root: attention that is spread over many tokens can still be seen."""
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    colors, norm = LinearSegmentedColormap.from_list("attention", _COLORS), PowerNorm(0.5, 0, 1)
    extent = (x, x + width, y + height, y)
    axes.imshow(weights, cmap=colors, norm=norm, extent=extent, aspect="auto", interpolation="nearest")


def _short(tokens: list[str]) -> list[str]:
    labels = map(_visible, tokens)
    return [label if len(label) <= 14 else label[:13] + "…" for label in labels]


def _families(text: str) -> list[str]:
    """The font of matplotlib, and installed ones for letters that it lacks."""
    from matplotlib import font_manager

    families = ["DejaVu Sans"]
    missing = set(map(ord, text)) - font_manager.get_font(font_manager.findfont(families[0])).get_charmap().keys()
    for font in font_manager.fontManager.ttflist:
        if (font.style, font.weight) != ("normal", 400) or font.name.startswith("Last Resort"):
            continue
        if not missing:
            break
        if covered := missing & font_manager.get_font(font.fname).get_charmap().keys():
            families.append(font.name)
            missing -= covered
    return families
