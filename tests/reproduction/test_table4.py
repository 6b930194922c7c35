"""Table 4 as a command: what would be run, and the rows of a trained parser."""

import json

import pytest

from transformer_jax.cli.main import main


def test_the_command_is_shown(tmp_path, capsys):
    arguments = ["--scale", "gum", "--dry-run", "--workdir", str(tmp_path), "--data.source.directory", str(tmp_path)]
    (tmp_path / "train.ptb.gz").touch()
    assert main(["reproduce", "table4", *arguments]) == 0
    command = f"transformer-jax train experiments/paper/parsing.py --variant small --workdir {tmp_path}/gum/seed_0"
    assert capsys.readouterr().out.startswith(command)


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
