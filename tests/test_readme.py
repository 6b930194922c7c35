"""The README's examples run."""

import re
from pathlib import Path

import pytest

from transformer_jax.cli.main import main

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
EXPERIMENTS = {
    block.split("\n")[0].removeprefix("# experiment: "): block for block in BLOCKS if "def experiment" in block
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_worked_example_trains_and_evaluates(name, tmp_path, capsys):
    file = tmp_path / "example.py"
    file.write_text(EXPERIMENTS[name], encoding="utf-8")
    quick = ["--train.steps", "3", "--mesh.data", "1", "--task.decoding.beam-size", "1"]
    status = main(["train", str(file), "--workdir", str(tmp_path / "run"), *quick])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    assert "exact_match" in captured.out
    assert "year_match" in captured.out or "task" not in name


def test_there_are_examples_for_data_task_and_model():
    assert [*EXPERIMENTS] == ["your own data", "your own task", "your own model"]


def test_modules_work_in_a_project_of_ones_own():
    block = next(block for block in BLOCKS if "stack = Stack" in block)
    names: dict = {}
    exec(block, names)
    assert names["value"] > 0
