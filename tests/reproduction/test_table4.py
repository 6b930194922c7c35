"""Table 4 as a command: what would be run, and the rows of a trained parser."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from transformer_jax.cli.main import main
from transformer_jax.reproduction import table4
from transformer_jax.reproduction.table4 import FILE, NAMES, SCALES
from transformer_jax.runs.experiment_file import load_experiment_file
from transformer_jax.runs.preparation import check_train


def test_the_command_is_shown(tmp_path, capsys):
    arguments = ["--scale", "gum", "--dry-run", "--workdir", str(tmp_path), "--data.source.directory", str(tmp_path)]
    (tmp_path / "train.ptb.gz").touch()
    assert main(["reproduce", "table4", *arguments]) == 0
    command = f"transformer-jax train experiments/paper/parsing.py --variant small --workdir {tmp_path}/gum/seed_0"
    assert capsys.readouterr().out.startswith(command)


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_can_be_trained(scale):
    check_train(load_experiment_file(Path(__file__).parents[2] / FILE, SCALES[scale] or "experiment"))


@pytest.mark.parametrize("content", ["", "[]", "null", '{"experiment": "e", "checkpoint": [1]}', '{"experiment": "e"'])
def test_kept_scores_that_are_not_whole_are_computed_again(tmp_path, monkeypatch, content):
    scores = dict.fromkeys((*NAMES.values(), "right_branching_f1", "left_branching_f1"), 1.0) | {"examples": 2}
    calls = []

    def run(command, **_):
        calls.append(command)
        return SimpleNamespace(returncode=0, stdout=json.dumps(scores))

    fake = SimpleNamespace(experiment="e", checkpoint_steps=lambda _: [1])
    monkeypatch.setattr(table4, "Run", SimpleNamespace(open=lambda _: fake))
    monkeypatch.setattr(table4.subprocess, "run", run)
    (tmp_path / "validation_texts.json").write_text(content)
    for _ in range(2):
        assert table4.scored(tmp_path, "validation", "search over all texts, repaired")["f1"] == 1.0
    assert len(calls) == 1


@pytest.mark.slow
def test_a_parser_is_trained_and_stands_beside_the_baselines(tmp_path, capfd):
    small = ["--model.d-model", "32", "--model.d-ff", "64", "--model.num-layers", "1", "--train.steps", "4"]
    small += ["--data.source.train-examples", "100", "--task.decoding.beam-size", "1", "--train.save-every", "4"]
    small += ["--train.checkpoint", "last", "--optimizer.warmup-steps", "2"]
    small += ["--seeds", "2"]
    for _ in range(2):  # the second time both have finished before
        assert main(["reproduce", "table4", "--workdir", str(tmp_path), *small]) == 0, capfd.readouterr()
    free, formed, right, left, paper = json.loads((tmp_path / "table4.json").read_text())
    assert free["examples"] == formed["examples"] == 10
    assert formed["malformed"]["values"] == formed["wrong leaves"]["values"] == [0, 0]
    assert 0 <= left["F1"] < right["F1"] < 100 and paper["F1"] == 91.3
    assert len(formed["F1"]["values"]) == 2 and free["device"] and (tmp_path / "table4.png").exists()
    assert "has finished before" in capfd.readouterr().out
