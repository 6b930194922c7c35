"""An experiment's file may import files that stand beside it, and a run holds them."""

import sys
from pathlib import Path

import pytest

from transformer_jax.runs.experiment_file import load_experiment_file
from transformer_jax.runs.imported_files import copy_imported, imported_files

FILE = """
import json
import sizes
from transformer_jax import DataConfig, Experiment, Files, Translation, base

def experiment():
    from parts.width import WIDTH
    return Experiment(task=Translation(), data=DataConfig(source=Files()), model=base(d_model=WIDTH, num_heads=2))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that imports a module, whose name is another's too, and a package that imports from a folder."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "project" / "parts").mkdir(parents=True)
    texts = {
        "run.py": FILE,
        "sizes.py": "WIDTH = 24",
        "json.py": "raise ValueError('the standard library has that name')",
        "unused.py": "",
        "parts/__init__.py": "",
        "parts/width.py": "from sizes import WIDTH",
    }
    for name, text in texts.items():
        (tmp_path / "project" / name).write_text(text)
    return tmp_path / "project"


def test_a_copy_of_an_experiment_with_its_imports_stands_alone(project: Path, tmp_path: Path) -> None:
    file, run = project / "run.py", tmp_path / "run"
    assert load_experiment_file(file).model.d_model == 24
    assert imported_files(file).keys() == {"sizes", "parts", "parts.width"}
    run.mkdir()
    copy_imported(file, run, taken=("tokenizer",))
    (run / "experiment.py").write_text(FILE)
    (project / "sizes.py").write_text("WIDTH = 48")
    assert sorted(path.relative_to(run).as_posix() for path in run.rglob("*.py")) == [
        *("experiment.py", "parts/__init__.py", "parts/width.py", "sizes.py")
    ]
    assert load_experiment_file(run / "experiment.py").model.d_model == 24
    assert load_experiment_file(file).model.d_model == 48


def test_an_imported_file_that_a_run_cannot_hold_or_python_not_read_is_named(project: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"imports .*sizes\.py, and a run has a sizes\.py of its own; rename yours"):
        copy_imported(project / "run.py", tmp_path, taken=("sizes.py",))
    (project / "sizes.py").write_text("WIDTH = = 1")
    with pytest.raises(ValueError, match=r"SyntaxError: .*\(sizes\.py, line 1\)"):
        load_experiment_file(project / "run.py")
