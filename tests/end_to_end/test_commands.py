import json

import pytest

from transformer_jax.cli.main import main


def test_a_trained_run_is_evaluated_used_averaged_and_moved(straight, experiment_file, tmp_path, capsys, monkeypatch):
    assert main(["train", str(experiment_file), "--workdir", str(straight)]) == 0
    assert "exact_match" in capsys.readouterr().out
    assert {path.name for path in straight.iterdir()} >= {
        "experiment.json", "experiment.py", "tokenizer", "checkpoints", "metrics.jsonl", "curves.png"
    }  # fmt: skip
    moved = straight.rename(tmp_path / "moved")

    def evaluate(*arguments):
        assert main(["evaluate", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    mean = evaluate(str(moved), "--checkpoint", "average:2")
    assert mean["examples"] == 60 and mean["checkpoint"] == [10, 12] and "signature" in mean
    monkeypatch.chdir(moved)
    assert main(["average", ".", "--last", "2"]) == 0
    capsys.readouterr()
    assert evaluate(str(tmp_path / "moved-average"))["loss"] == mean["loss"]
    assert evaluate(".", "--data.source.count", "5")["examples"] == 5

    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("12\n\n345\n")
    target.write_text("21\n\n543\n")
    assert main(["predict", str(moved), "--input", str(source), "--output", str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out").read_text().split("\n")
    assert len(lines) == 4 and lines[1] == ""
    assert main(["score", str(moved), "--source", str(source), "--target", str(target)]) == 0
    assert len([float(line) for line in capsys.readouterr().out.split()]) == 3
    assert main(["attention", str(moved), "12"]) == 0
    assert (moved / "attention" / "attention.png").stat().st_size > 1000


def test_other_training_text_is_refused_and_the_run_stays_as_it_is(experiment_file, tmp_path, capsys):
    arguments = ["train", str(experiment_file), "--workdir", str(tmp_path / "run")]
    assert main([*arguments, "--train.stop-after", "2"]) == 0
    before = (tmp_path / "run" / "experiment.json").read_bytes()
    experiment_file.write_text(experiment_file.read_text().replace("1_000", "2_000"))
    capsys.readouterr()
    assert main(arguments) == 2
    assert "other training text" in capsys.readouterr().err
    assert (tmp_path / "run" / "experiment.json").read_bytes() == before


def test_runs_are_evaluated_together(straight, experiment_file, tmp_path, capsys):
    other = str(tmp_path / "other")
    options = ["--train.seed", "1", "--train.steps", "4", "--model.d-model", "8"]
    assert main(["train", str(experiment_file), "--workdir", other, *options]) == 0
    capsys.readouterr()

    def loss(*runs):
        assert main(["evaluate", *runs, "--json", "--data.source.count", "9"]) == 0
        return json.loads(capsys.readouterr().out)

    alone, twice, both = (loss(str(straight), *more) for more in ([], [str(straight)], [other]))
    assert twice["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert both["ensemble"] == {str(straight): [12], other: [4]}
    assert alone["loss"] != pytest.approx(both["loss"], rel=1e-3) and "bleu" in both
    changed = [*options, "--data.tokenizer.mask", "True"]
    third = str(tmp_path / "third")
    assert main(["train", str(experiment_file), "--workdir", third, *changed]) == 0
    assert main(["evaluate", str(straight), third]) == 2
    assert "an ensemble has one vocabulary" in capsys.readouterr().err
