"""Tables as text, CSV and JSON."""

import csv
import json
import math

from transformer_jax.analysis.tables import Measured, draw_rows, shown, write_tables

RECORDS = [
    {"row": "a", "loss": Measured((1.0, 2.0, 3.0)), "parameters": 1_200, "device": "x", "problem": ""},
    {"row": "b", "loss": Measured((4.0,)), "parameters": None, "device": "", "problem": ""},
]


def test_a_table_has_means_with_spreads_and_says_once_what_all_rows_share():
    lines = shown(RECORDS, below=["device"]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:-1]]
    assert cells[0] == ["row", "loss", "parameters"]
    assert cells[2:] == [["a", "2 ± 1", "1,200"], ["b", "4", ""]]
    assert lines[-1] == "device: x"


def test_files_hold_every_value_and_the_picture_every_row(tmp_path):
    table, whole = write_tables(RECORDS, tmp_path, "table")
    rows = list(csv.DictReader(table.open()))
    assert (rows[0]["loss"], rows[0]["loss spread"], rows[1]["loss spread"]) == ("2.0", "1.0", "")
    assert json.loads(whole.read_text())[0]["loss"] == {"mean": 2, "spread": 1, "values": [1, 2, 3]}
    picture = draw_rows(RECORDS, ["loss"], tmp_path / "table.png")
    assert picture.read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 3


def test_a_value_that_is_no_number_is_none_in_the_files(tmp_path):
    record = {"row": "a", "loss": Measured((1.0, math.nan)), "other": math.inf}
    assert math.isnan(Measured((1.0, math.inf)).spread or 0)
    write_tables([record], tmp_path, "table")
    (found,) = json.loads((tmp_path / "table.json").read_text())
    assert found == {"row": "a", "loss": {"mean": None, "spread": None, "values": [1.0, None]}, "other": None}
