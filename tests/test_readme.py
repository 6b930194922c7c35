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
def test_worked_example_trains_and_evaluates(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("example.py").write_text(EXPERIMENTS[name], encoding="utf-8")
    # More steps than an epoch has batches: the last of those is not full.
    quick = ["--train.steps", "10", "--mesh.data", "1", "--task.decoding.beam-size", "1"]
    if "files" in name:
        Path("data").mkdir()
        for side in ("en", "de"):
            Path("data", f"train.{side}").write_text("".join(f"{side} {n}\n" for n in range(400)), encoding="utf-8")
        quick += ["--data.tokenizer.vocab-size", "60", "--data.tokens-per-batch", "1024", "--model.d-model", "32"]
    status = main(["train", "example.py", *quick])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    assert ("bleu" if "files" in name else "exact_match") in captured.out
    assert "year_match" in captured.out or "task" not in name


def test_there_are_examples_for_files_data_task_and_model():
    assert [*EXPERIMENTS] == ["your own files", "your own data", "your own task", "your own model"]


def test_modules_work_in_a_project_of_ones_own():
    block = next(block for block in BLOCKS if "stack = Stack" in block)
    names: dict = {}
    exec(block, names)
    assert names["value"] > 0
