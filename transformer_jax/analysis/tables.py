"""Tables of measurements: printed, as CSV and JSON, and drawn."""

import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from transformer_jax.analysis.drawing import BLUE, INK, new_figure, quiet, save
from transformer_jax.data.lines import write_whole
from transformer_jax.runs.metrics import as_json


@dataclass(frozen=True)
class Measured:
    """A number that was measured several times, such as with several seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """The standard deviation of the values around their mean, with one degree of freedom less; None of one."""
        if len(self.values) < 2:
            return None
        return statistics.stdev(self.values) if all(map(math.isfinite, self.values)) else math.nan

    def __str__(self) -> str:
        return f"{self.mean:.4g}" if self.spread is None else f"{self.mean:.4g} ± {self.spread:.2g}"


Record = Mapping[str, Any]
"""A row of a table: text, whole numbers, numbers or `Measured` by the name of the column; None: nothing is known."""


def columns_of(records: Sequence[Record]) -> list[str]:
    """The columns that any row has, in their order, but `problem` at the end."""
    return sorted(dict.fromkeys(name for record in records for name in record), key=lambda name: name == "problem")


def shown(records: Sequence[Record], below: Sequence[str] = ()) -> str:
    """The table in Markdown; columns of `below` with one text in all rows that have any stand below it."""
    from rich.box import MARKDOWN
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = columns_of(records)
    texts = {name: {text for record in records if (text := _text(record.get(name)))} for name in names}
    same = {name: texts[name].pop() for name in below if len(texts.get(name, ())) == 1}
    table = Table(box=MARKDOWN)
    kept = [name for name in names if texts[name]]
    for name in kept:
        numbers = all(isinstance(record.get(name), int | float | Measured | None) for record in records)
        table.add_column(Text(name), justify="right" if numbers else "left", no_wrap=True)
    for record in records:
        table.add_row(*(Text(_text(record.get(name))) for name in kept))
    text = StringIO()
    Console(file=text, width=10_000, highlight=False).print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]
    return "\n".join([*lines, *(f"{name}: {text}" for name, text in same.items())])


def write_tables(records: Sequence[Record], directory: Path, name: str) -> list[Path]:
    """Writes NAME.csv, where a measured number has a second column for its spread, and NAME.json with every value."""
    flat: list[dict[str, Any]] = []
    for record in records:
        flat.append({})
        for column, value in record.items():
            measured = isinstance(value, Measured)
            flat[-1] |= {column: value.mean, f"{column} spread": value.spread} if measured else {column: value}
    text = StringIO()
    writer = csv.DictWriter(text, columns_of(flat), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    directory.mkdir(parents=True, exist_ok=True)
    files = {f"{name}.csv": text.getvalue()}
    plain = [{column: _plain(value) for column, value in record.items()} for record in records]
    files[f"{name}.json"] = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    for file, content in files.items():
        write_whole(directory / file, content.encode())
    return [directory / file for file in files]


def draw_rows(records: Sequence[Record], columns: Sequence[str], path: Path) -> Path:
    """Draws a panel for each column: a dot for each `row`, and a line as long as twice the spread of its values."""
    figure = new_figure(3 + 2.6 * len(columns), 1.2 + 0.3 * len(records))
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        for place, record in enumerate(records):
            value = record.get(column)
            if value is None:
                continue
            mean, spread = (value.mean, value.spread) if isinstance(value, Measured) else (value, None)
            axes.errorbar(mean, place, xerr=spread, fmt="o", color=BLUE, markersize=4, linewidth=1.5)
        axes.set_title(column, color=INK, size=10, loc="left", parse_math=False)
        axes.margins(x=0.1)
        axes.locator_params(axis="x", nbins=4)
        quiet(axes)
    labels = [_text(record.get("row")) for record in records]
    panels[0].set_yticks(range(len(records)), labels, parse_math=False)
    panels[0].set_ylim(len(records) - 0.5, -0.5)
    return save(figure, path)


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
    return str(value)


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, Measured):
        return {"mean": as_json(value.mean), "spread": as_json(value.spread), "values": [*map(as_json, value.values)]}
    return as_json(value)
