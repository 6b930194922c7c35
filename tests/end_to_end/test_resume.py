"""A run that was ended in any way goes on as if it had not been: the numbers are equal, not close."""

import fcntl
import re
import signal
import time

import jax
import numpy as np
import pytest

from transformer_jax.cli.main import main
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.runs.checkpoint_folder import read_facts
from transformer_jax.runs.evaluation import Evaluation
from transformer_jax.runs.interrupts import Interrupted
from transformer_jax.runs.metrics import read_metrics
from transformer_jax.runs.run import Run
from transformer_jax.runs.trainer import Trainer

TIMINGS = ("tokens_per_second", "memory", "peak_memory")


def rows(directory):
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in read_metrics(directory)]


def leaves(directory, step=12):
    """Every array of a checkpoint, the optimizer's too, read without any of our code."""
    import orbax.checkpoint as ocp

    folder = directory / "checkpoints" / str(step)
    trees = [ocp.StandardCheckpointHandler().restore(folder / item) for item in ("model", "optimizer")]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(trees)}


def assert_same_run(one, other):
    assert rows(one) == rows(other)
    first, second = leaves(one), leaves(other)
    assert first.keys() == second.keys() and len(first) > 50
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_stop_and_go_on_equals_straight(straight, experiment_file, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", str(experiment_file), "--workdir", str(run), "--train.stop-after", "5"]) == 0
    assert read_metrics(run)[-1]["step"] == 5
    assert "stopped and saved at step 5; the same command goes on" in capsys.readouterr().out
    assert main(["train", str(experiment_file), "--workdir", str(run)]) == 0
    assert "going on from step 5\n" in capsys.readouterr().out
    assert_same_run(straight, run)
    assert [row["step"] for row in read_metrics(run)] == list(range(1, 13))
    capsys.readouterr()
    (run / "cache" / "train.arrow.7.partial").touch()  # what a killed process leaves
    assert main(["train", str(experiment_file), "--workdir", str(run)]) == 0
    assert not list(run.rglob("*.partial"))
    assert "finished" in capsys.readouterr().out


def test_a_row_is_the_mean_of_its_steps_though_the_run_stopped_between(
    uninterrupted, experiment_file, tmp_path, capsys
):
    run, every_step = tmp_path / "run", rows(uninterrupted)
    arguments = ["train", str(experiment_file), "--workdir", str(run), "--train.evaluate-every", "0"]
    arguments += ["--train.log-every", "5"]
    for stop in ("3", "7", "12"):
        assert main([*arguments, "--train.stop-after", stop]) == 0
    written, before = rows(run), 0
    assert [row["step"] for row in written] == [1, 5, 10, 12]
    for row in written:
        steps, before = every_step[before : row["step"]], row["step"]
        tokens = [step["tokens"] for step in steps]
        assert (row["steps_averaged"], row["tokens"]) == (len(steps), sum(tokens))
        for name in ("loss", "nll"):
            expected = np.average([step[name] for step in steps], weights=tokens)
            np.testing.assert_allclose(row[name], expected, rtol=1e-6, err_msg=name)
    shown = [line for line in capsys.readouterr().out.splitlines() if re.match(r"compil|step .* gradient", line)]
    assert re.match(r"compiling a step of \d+ rows, source \d+, target \d+", shown[0])
    assert re.match(r"compiled in \d+\.\d s", shown[1])
    steps = [line.split("/")[0].split()[-1] for line in shown if line.startswith("step")]
    assert steps == ["1", "4", "5", "8", "10", "12"], "the first step of every start, and every row"


@pytest.mark.parametrize("stop", [pytest.param(8, marks=pytest.mark.slow), 12])
def test_an_evaluation_that_a_signal_ended_is_made_when_the_run_goes_on(
    straight, experiment_file, tmp_path, monkeypatch, stop
):
    run, evaluations = tmp_path / "run", []
    evaluate = Evaluation.__call__

    def interrupted(self, model, **settings):
        evaluations.append(model)
        if len(evaluations) == stop // 4:
            raise Interrupted
        return evaluate(self, model, **settings)

    monkeypatch.setattr(Evaluation, "__call__", interrupted)
    command = ["train", str(experiment_file), "--workdir", str(run)]
    assert main([*command, "--train.stop-after", str(stop)]) == 0
    assert "validation_loss" not in read_metrics(run)[-1]
    assert main(command) == 0
    assert_same_run(straight, run)
    assert main(command) == 0
    assert_same_run(straight, run)


def test_an_evaluation_that_failed_is_not_tried_again_and_the_run_goes_on(experiment_file, tmp_path, monkeypatch):
    run, evaluations = tmp_path / "run", []
    evaluate = Evaluation.__call__

    def failing(self, model, **settings):
        evaluations.append(model)
        if len(evaluations) == 2:
            raise ValueError("an example cannot be scored")
        return evaluate(self, model, **settings)

    monkeypatch.setattr(Evaluation, "__call__", failing)
    command = ["train", str(experiment_file), "--workdir", str(run)]
    assert main(command) == 1 and read_metrics(run)[-1]["step"] == 8
    assert main(command) == 0
    scored = [row["step"] for row in read_metrics(run) if row.get("validation_loss") is not None]
    assert scored == [4, 12] and len(evaluations) == 4, "the last one is of the test examples"


def test_dropout_draws_from_another_key_than_the_parameters(straight):
    saved = read_facts(straight / "checkpoints" / "12")["state"]["key"]
    assert saved != jax.random.key_data(jax.random.key(0)).tolist()


def test_killed_in_the_middle_of_a_save_goes_on_equal(straight, experiment_file, tmp_path, command):
    run, marker = tmp_path / "run", tmp_path / "held"
    hold = f"""
import pathlib, sys, time
def hold(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("checkpoints/6"):
        pathlib.Path({str(marker)!r}).touch()
        time.sleep(600)
sys.addaudithook(hold)
"""
    process = command("train", experiment_file, "--workdir", run, before=hold, wait=False)
    deadline = time.monotonic() + 600
    while not marker.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert "6" not in names and any(name.startswith("6.") for name in names), "an uncommitted step lies there"
    assert main(["train", str(experiment_file), "--workdir", str(run)]) == 0
    assert_same_run(straight, run)
    assert all(path.name.isdecimal() for path in (run / "checkpoints").iterdir()), "what was uncommitted is gone"


def test_a_signal_before_the_first_step_ends_the_run_without_it(experiment_file, tmp_path, monkeypatch, capsys):
    def signalled(self, *arguments):
        signal.raise_signal(signal.SIGTERM)
        return None, 0

    monkeypatch.setattr(Trainer, "_restore", signalled)
    with pytest.raises(SystemExit, match="143"):
        main(["train", str(experiment_file), "--workdir", str(tmp_path / "run")])
    out = capsys.readouterr().out
    assert "stopped before step 1; the same command goes on from there" in out and "compiling" not in out


def test_signals_save_and_the_run_goes_on_equal(straight, experiment_file, tmp_path, command):
    run = tmp_path / "run"
    slow = (
        "import time, transformer_jax.data.pipeline as pipeline\nbatches = pipeline.batches\n"
        "def slowly(*args, **kwargs):\n    for batch in batches(*args, **kwargs):\n        time.sleep(0.5)\n"
        "        yield batch\npipeline.batches = slowly"
    )
    for number, status, step in ((signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 6)):
        process = command("train", experiment_file, "--workdir", run, before=slow, wait=False)
        deadline = time.monotonic() + 600
        while not (run / "metrics.jsonl").exists() or len(read_metrics(run)) < step:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=600)
        assert process.returncode == status, err
        assert err == ""
        assert "stopping after this step" in out and "stopped and saved at step" in out
        saved = Run.open(run).checkpoints().steps()
        assert step <= saved[-1] < 12
    assert main(["train", str(experiment_file), "--workdir", str(run)]) == 0
    assert_same_run(straight, run)


def test_damaged_checkpoints_are_set_aside(straight, experiment_file, capsys):
    before = rows(straight)
    for path in sorted((straight / "checkpoints" / "12" / "model").rglob("*")):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert main(["train", str(experiment_file), "--workdir", str(straight)]) == 0
    assert "warning:" in capsys.readouterr().err
    assert rows(straight) == before
    for step in Run.open(straight).checkpoints().steps():
        for path in sorted((straight / "checkpoints" / str(step)).rglob("*")):
            if path.is_file():
                path.write_bytes(b"")
    assert main(["train", str(experiment_file), "--workdir", str(straight)]) != 0
    assert "no checkpoint" in capsys.readouterr().err


LOSSES = {
    "experiment.json": ("[]", "experiment.json is damaged: it is no JSON object"),
    "metrics.jsonl": ('{"step": 1}\n{"step": "2"}\n{"step": 3}\n', "metrics.jsonl:2 is not a JSON object of numbers"),
    "text.fingerprint": ("", "text.fingerprint has nothing, not"),
    "checkpoints": ("", "made 12 steps, but"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_run_that_lost_a_part_is_refused_and_stays_as_it_is(straight, experiment_file, capsys, name):
    def contents():
        return {path: path.read_bytes() for path in straight.rglob("*") if path.is_file() and path.name != ".lock"}

    def refusal():
        before = contents()
        assert main(["train", str(experiment_file), "--workdir", str(straight), "--train.steps", "14"]) == 2
        assert contents() == before
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    text, message = LOSSES[name]
    if (straight / name).is_file():
        (straight / name).write_text(text)
    else:  # the disk behind it is not there
        (straight / name).rename(straight.with_name("away"))
        (straight / name).symlink_to("nowhere")
    assert message in refusal()
    if name == "checkpoints":
        (straight / name).unlink()
        (straight / name).mkdir()
        assert message in refusal()


def test_a_second_process_is_refused_and_the_mark_of_the_first_stays(straight, experiment_file, capsys):
    with (straight / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = held.read()
        assert main(["train", str(experiment_file), "--workdir", str(straight)]) == 2
        assert "another process is training in" in capsys.readouterr().err
    assert before and (straight / ".lock").read_text() == before


def test_an_infinite_loss_stops_the_run_and_reaches_no_checkpoint(experiment_file, tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--optimizer.name", "sgd", "--optimizer.learning-rate", "1e30", "--optimizer.warmup-steps", "1"]
    assert main(["train", str(experiment_file), "--workdir", str(run), *options, "--train.save-every", "1"]) == 1
    assert "at step" in capsys.readouterr().err
    opened = Run.open(run)
    for step in opened.checkpoints().steps():
        model = opened.model_of([step])
        assert all(np.isfinite(leaf).all() for leaf in named_parameters(model).values())


def test_another_experiment_is_refused_with_the_fields_that_differ(straight, experiment_file, capsys):
    options = ["--model.d-ff", "64", "--train.seed", "3"]
    assert main(["train", str(experiment_file), "--workdir", str(straight), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "model.d_ff was 32, now 64" in error and "train.seed was 0, now 3" in error


def test_fields_that_change_nothing_learnt_may_change(straight, experiment_file, capsys):
    options = ["--train.steps", "14", "--train.keep", "2", "--train.log-every", "7", "--task.decoding.beam-size", "1"]
    assert main(["train", str(experiment_file), "--workdir", str(straight), *options]) == 0
    assert [row["step"] for row in read_metrics(straight)][-2:] == [12, 14]


def test_a_schedule_over_all_steps_refuses_another_number_of_steps(experiment_file, tmp_path, capsys):
    arguments = ["train", str(experiment_file), "--workdir", str(tmp_path / "run"), "--optimizer.schedule", "cosine"]
    assert main([*arguments, "--train.steps", "4", "--train.stop-after", "2"]) == 0
    assert main([*arguments, "--train.steps", "6"]) == 2
    assert "train.steps was 4, now 6 (the cosine schedule ends there)" in capsys.readouterr().err


@pytest.mark.slow
def test_subwords_are_sampled_alike_through_a_stop_and_never_in_evaluation(experiment_file, tmp_path):
    arguments = [
        "train",
        str(experiment_file),
        "--data.tokenizer",
        "sentence_piece",
        "--data.tokenizer.vocab-size",
        "40",
    ]
    arguments += ["--train.steps", "4", "--train.evaluate-every", "4", "--optimizer.learning-rate", "1e-9"]
    sampled = ["--data.subword-sampling", "0.3"]
    for name, more in (("plain", []), ("straight", sampled), ("stopped", [*sampled, "--train.stop-after", "2"])):
        assert main([*arguments, *more, "--workdir", str(tmp_path / name)]) == 0
    assert main([*arguments, *sampled, "--workdir", str(tmp_path / "stopped")]) == 0
    plain, straight, stopped = (rows(tmp_path / name) for name in ("plain", "straight", "stopped"))
    assert straight == stopped
    assert sum(row["tokens"] for row in straight) > 1.1 * sum(row["tokens"] for row in plain)
    assert straight[-1]["validation_loss"] == pytest.approx(plain[-1]["validation_loss"], rel=1e-5)
