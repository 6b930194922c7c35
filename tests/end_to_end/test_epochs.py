"""Runs that are measured in epochs, here of two steps, and that end when they have ceased to become better."""

import pytest

from transformer_jax.cli.main import main
from transformer_jax.runs.metrics import read_metrics
from transformer_jax.runs.run import Run

SCORE = "validation_exact_match"


@pytest.mark.slow
def test_a_run_that_gets_no_better_ends_at_the_same_step_though_it_was_stopped(experiment_file, tmp_path, capsys):
    run = tmp_path / "run"
    command = ["train", str(experiment_file), "--workdir", str(run), "--train.best", SCORE]
    command += ["--train.save-every", "epoch", "--train.evaluate-every", "epoch", "--optimizer.learning-rate", "1e-9"]
    assert main([*command, "--train.patience", "2", "--train.stop-after", "5"]) == 0
    assert Run.open(run).checkpoints().steps() == [2, 4, 5]
    assert main([*command, "--train.patience", "2"]) == 0
    output = capsys.readouterr().out
    assert f"finished and saved at step 6: 2 evaluations in a row brought no better {SCORE} than 0\n" in output
    assert output.endswith(f"the run is in {run}\n"), "its result is shown"
    assert [(row["step"], row["epoch"]) for row in read_metrics(run) if SCORE in row] == [(2, 1.0), (4, 2.0), (6, 3.0)]
    assert main([*command, "--train.patience", "2"]) == 0
    assert "this run has finished: 2 evaluations in a row" in capsys.readouterr().out
    assert main([*command, "--train.patience", "3"]) == 0
    assert read_metrics(run)[-1]["step"] == 8 and Run.open(run).checkpoints().steps()[-3:] == [5, 6, 8]


def test_predictions_are_made_at_some_evaluations_and_the_last(experiment_file, tmp_path):
    command = ["train", str(experiment_file), "--workdir", str(tmp_path / "run"), "--train.steps", "9"]
    assert main([*command, "--train.evaluate-every", "epoch", "--train.predict-every", "2"]) == 0
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows if "validation_loss" in row] == [2, 4, 6, 8, 9]
    assert [row["step"] for row in rows if SCORE in row] == [4, 8, 9]
