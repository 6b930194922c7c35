"""The Colab notebook: its own cells, from the first to the last, in a fresh kernel on the CPU."""

import ast
import base64
import gzip
import json
import os
import re
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from transformer_jax.runs.experiment_file import load_experiment_file
from transformer_jax.runs.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "launch" / "colab.ipynb"
NOTEBOOK = nbformat.read(FILE, as_version=4)
SOURCES = {cell.id: cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"}


def execute(directory, *, last=None, **settings):
    """Runs the cells, up to `last` if given, as started in `directory`; returns their outputs by cell."""
    notebook = nbformat.read(FILE, as_version=4)
    ids = [cell.id for cell in notebook.cells]
    notebook.cells = notebook.cells[: len(ids) if last is None else ids.index(last) + 1]
    # The kernel is to be as fresh as Colab's: of what the suite sets for its own JAX, it has what shortens compilation.
    quick = ("JAX_DISABLE_MOST", "JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")
    environment = {name: of for name, of in os.environ.items() if not name.startswith("JAX_") or name.startswith(quick)}
    environment |= {"JAX_PLATFORMS": "cpu", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    environment["PYTHONPATH"] = str(ROOT)  # the checkout counts as installed, so that the environment stays as it is
    environment.pop("TRANSFORMER_JAX_DATA", None)
    environment["TRANSFORMER_JAX_NOTEBOOK"] = json.dumps(settings)
    place = {"metadata": {"path": str(directory)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute(env=environment)
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def text(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pictures(outputs):
    found = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [base64.b64decode(picture) for picture in found]


def function(cell, name, **known) -> Any:
    """A function of a cell, which finds what is `known` and nothing else of the notebook."""
    found = next(node for node in ast.parse(SOURCES[cell]).body if getattr(node, "name", None) == name)
    exec(ast.unparse(found), known)
    return known[name]


def test_is_stored_without_outputs_and_with_little_metadata():
    raw = json.loads(FILE.read_text(encoding="utf-8"))
    nbformat.validate(raw)
    assert (raw["nbformat"], raw["nbformat_minor"]) == (4, 5)
    assert set(raw["metadata"]) == {"accelerator", "colab", "kernelspec", "language_info"}
    assert all(not cell["metadata"] for cell in raw["cells"])
    assert not [cell["id"] for cell in raw["cells"] if cell.get("outputs") or cell.get("execution_count")]


def test_every_cell_of_code_parses_and_has_a_text_before_it():
    kinds = [cell.cell_type for cell in NOTEBOOK.cells]
    assert kinds[1:] == ["markdown", "code"] * (len(kinds) // 2)
    for name, source in SOURCES.items():
        ast.parse(source, name)


def test_names_no_place_but_those_of_colab():
    places = re.findall(r"""(?:^|["'\s`(])(/\w[\w/.]*)""", "\n".join(cell.source for cell in NOTEBOOK.cells))
    assert set(places) <= {"/content/drive/", "/content/drive/MyDrive/runs", "/content/drive"}


@pytest.mark.parametrize(
    ("platform", "capability", "expected"),
    [("tpu", None, "bfloat16"), ("gpu", "8.0", "bfloat16"), ("gpu", "12.0", "bfloat16")]
    + [("gpu", "7.5", "float32"), ("cpu", None, "float32")],
)
def test_precision_is_one_that_the_chip_has(platform, capability, expected):
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    assert function("chip", "precision")(device) == expected


def test_captions_are_downloaded_once_under_the_names_that_the_experiment_reads(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    lines = {"train": 3, "val": 2, "test_2016_flickr": 1}
    for split, count in lines.items():
        for language in ("en", "de"):
            (there / f"{split}.lc.norm.tok.{language}").write_text(f"{language}\n" * count, encoding="utf-8")
    modules = {"gzip": gzip, "urllib": urllib, "DRY_RUN": False}
    fetch = function("data", "fetch", ADDRESS=there.as_uri(), LINES=lines, **modules)
    fetch(here)
    source: Any = load_experiment_file(ROOT / "experiments" / "multi30k_en_de.py").data.source
    assert {file.name for file in here.iterdir()} == {*source.train, *source.validation, *source.test}
    assert [example["target"] for example in replace(source, directory=str(here)).examples("train")] == ["de"] * 3
    function("data", "fetch", ADDRESS="file:///nowhere", LINES=lines, **modules)(here)
    (here / "val.de").unlink()
    with pytest.raises(OSError, match="has 2 lines, not 9"):
        function("data", "fetch", ADDRESS=there.as_uri(), LINES=lines | {"val": 9}, **modules)(here)


def test_dry_run_says_what_it_would_do_and_does_nothing(tmp_path):
    outputs = execute(
        tmp_path,
        DRY_RUN=True,
        REPOSITORY="https://example.org/transformer_jax.git",
        EXPERIMENT="experiments/paper/wmt14.py",
        OVERRIDES="--train.steps 7 --data.source.data-dir 'a b'",
        WORKDIR=str(tmp_path / "runs"),
    )
    checkout = tmp_path / "transformer_jax"
    clone, pip, _ = text(outputs["install"]).splitlines()
    assert clone == f"would run: git clone --depth 1 https://example.org/transformer_jax.git {checkout}"
    assert re.fullmatch(f"would run: .* -m pip install .* --editable {checkout}", pip)
    assert text(outputs["train"]) == (
        f"would run: transformer-jax train {checkout}/experiments/paper/wmt14.py --workdir "
        f"{tmp_path}/runs/wmt14 --model.dtype float32 --train.steps 7 --data.source.data-dir 'a b'\n"
    )
    assert text(outputs["data"]).count("would download: https://") == 6
    assert "would run: transformer-jax train" in text(outputs["multi30k"])
    assert not list(tmp_path.iterdir())


def test_without_a_checkout_an_address_to_clone_from_is_asked_for(tmp_path):
    with pytest.raises(CellExecutionError, match="put the address to clone from into REPOSITORY"):
        execute(tmp_path, last="install")


@pytest.mark.slow
def test_runs_from_the_first_cell_to_the_last_and_goes_on_when_started_again(tmp_path):
    settings = {"QUICK": True, "WORKDIR": str(tmp_path)}
    outputs = execute(FILE.parent, **settings)
    assert f"jax {jax.__version__}; packages added: 0, changed: none" in text(outputs["install"])
    assert "precision: float32" in text(outputs["chip"])
    drawn = {name for name, output in outputs.items() if any(map(is_picture, pictures(output)))}
    assert drawn == {"curves", "attention", "multi30k-curves", "multi30k-attention"}
    assert re.search(r"-> \d{4}-\d\d-\d\d\n", text(outputs["predict"]))
    for name in ("quickstart", "multi30k_sized"):
        rows = read_metrics(tmp_path / "quick" / name)
        assert rows[-1]["step"] == 100
        assert rows[-1]["nll"] < 0.5 * rows[0]["nll"]

    before = (tmp_path / "quick" / "quickstart" / "metrics.jsonl").read_bytes()
    again = text(execute(FILE.parent, last="train", **settings)["train"])
    assert "this run has finished: 100 of 100 steps" in again
    assert (tmp_path / "quick" / "quickstart" / "metrics.jsonl").read_bytes() == before


def is_picture(content):
    return content.startswith(b"\x89PNG") and len(content) > 10_000
