"""A sweep with trainings that really run."""

import csv
import json
import math
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from transformer_jax.analysis.sweep_table import scores_of, sweep_table
from transformer_jax.cli.main import main
from transformer_jax.runs.experiment_file import load_experiment_file
from transformer_jax.runs.metrics import read_metrics
from transformer_jax.runs.run import Run
from transformer_jax.runs.sweep import Job, Row, process_of
from transformer_jax.version import __version__

TIMES = ("seconds", "seconds spread")


def table(directory):
    rows = list(csv.DictReader((directory / "table.csv").open(encoding="utf-8")))
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def test_a_dry_run_prints_commands_that_parse_and_their_cost_and_writes_nothing(experiment_file, tmp_path, capsys):
    place = tmp_path / "a sweep"
    arguments = ["sweep", str(experiment_file), "--grid", "model.d-ff=32,64", "--seeds", "2", "--workdir", str(place)]
    assert main([*arguments, "--train.steps", "3", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("transformer-jax train ")]
    assert len(commands) == 4 and len(lines) == 7 and not place.exists()
    assert commands[3][-6:] == ["--train.steps", "3", "--model.d-ff", "64", "--train.seed", "1"]
    assert "9,552 parameters" in lines[5] and "GiB" in lines[6]
    assert main([*arguments, "--grid", "train.steps=3,3", "--dry-run"]) == 2
    assert "two rows have the directory" in capsys.readouterr().err
    assert main([*arguments, "--model.d_modle", "3"]) == 2
    assert "did you mean --model.d-model?" in capsys.readouterr().err


def test_a_wrong_row_is_named_and_the_others_are_costed(experiment_file, tmp_path, capsys):
    arguments = ["sweep", str(experiment_file), "--grid", "model.d-model=15,16", "--workdir", str(tmp_path / "there")]
    assert main([*arguments, "--dry-run"]) == 2
    out, err = capsys.readouterr()
    assert "model.d-model=15: d_model 15 is not" in out and "model.d-model=16: " in out.splitlines()[-1]
    assert err == "error: 1 of 2 rows cannot be trained\n"


def test_processes_run_this_package_and_share_their_programs(tmp_path, monkeypatch):
    (tmp_path / "transformer_jax").mkdir()
    (tmp_path / "transformer_jax" / "__init__.py").write_text("raise SystemExit('another package')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    command, environment = process_of(["--version"], tmp_path / "row" / "seed_0")
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout == f"{__version__}\n"
    assert Path(environment["JAX_COMPILATION_CACHE_DIR"]).parent == tmp_path / "programs"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    assert process_of([], tmp_path / "row" / "seed_0")[1]["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"


def test_a_finished_run_is_that_of_its_experiment_alone_and_a_row_of_the_table(uninterrupted):
    experiment = load_experiment_file(uninterrupted / "experiment.py")
    job = Job(Row("tiny", ("--a.b", "two words")), 0, uninterrupted, (), experiment)
    other = replace(job, experiment=replace(experiment, train=replace(experiment.train, steps=13)))
    assert job.finished and not other.finished
    assert not replace(job, directory=uninterrupted / "nowhere").finished
    (record,) = sweep_table([job, other], {uninterrupted: "a reason"})
    last, result = read_metrics(uninterrupted)[-1], json.loads((uninterrupted / "result.json").read_text())
    assert (record["overrides"], record["finished"], record["problem"]) == ("--a.b 'two words'", "1 of 2", "a reason")
    assert record["validation_loss"].values == (last["validation_loss"],)
    assert record["test_bleu"].values == (result["scores"]["bleu"],) and record["seconds"].mean > 0
    assert result["checkpoint"] == [12] and result["split"] == "test" and "cores" in result["device"]
    assert record["parameters"] == Run.open(uninterrupted).experiment.model.num_parameters()
    assert record["signature"].startswith("nrefs:1") and scores_of([record])[0] == "validation_loss"


def test_scores_of_other_parameters_and_of_seeds_without_any_are_no_last_evaluation(uninterrupted, tmp_path):
    experiment = load_experiment_file(uninterrupted / "experiment.py")
    jobs, place = [], tmp_path
    for seed in range(2):
        place = shutil.copytree(uninterrupted, tmp_path / f"seed_{seed}")
        result = json.loads((place / "result.json").read_text())
        (place / "result.json").write_text(json.dumps(result | {"split": "validation"}))
        jobs.append(Job(Row("tiny"), seed, place, (), experiment))
    rows = [row for row in read_metrics(place) if "validation_bleu" in row]
    metrics = (place / "metrics.jsonl").read_text()
    for row in rows:
        metrics = metrics.replace(f'"validation_bleu": {json.dumps(row["validation_bleu"])}', '"validation_bleu": null')
    (place / "metrics.jsonl").write_text(metrics)
    (record,) = sweep_table(jobs, {})
    assert record["final_validation_bleu"].values == (result["scores"]["bleu"],) * 2
    first, second = record["validation_bleu"].values
    assert first == rows[-1]["validation_bleu"] and math.isnan(second) and math.isnan(record["validation_bleu"].mean)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("result.json", "{}", "does not name the steps"),
        ("result.json", '{"checkpoint": [12], "scores": []}', "does not have the scores"),
        ("result.json", '{"checkpoint"', "result.json"),
        ("experiment.json", "[]", "experiment.json"),
        ("metrics.jsonl", '{"step": 6, "validation_loss": 1.0}\n{"step": 12, "valid', "has lost rows"),
        ("metrics.jsonl", '{"step": 6, "loss": "low"}\n{"step": 12}\n', "metrics.jsonl:1"),
    ],
)
def test_a_damaged_seed_is_named_beside_the_others(uninterrupted, tmp_path, name, content, problem):
    experiment = load_experiment_file(uninterrupted / "experiment.py")
    damaged = shutil.copytree(uninterrupted, tmp_path / "damaged")
    (damaged / name).write_text(content)
    jobs = [Job(Row("tiny"), seed, place, (), experiment) for seed, place in enumerate((damaged, uninterrupted))]
    (record,) = sweep_table(jobs, {})
    assert record["finished"] == "1 of 2" and problem in record["problem"] and len(record["test_bleu"].values) == 1


@pytest.mark.slow
def test_a_sweep_killed_in_the_middle_goes_on_and_ends_with_the_same_table(experiment_file, tmp_path, command):
    def arguments(place):
        words = ["sweep", experiment_file, "--grid", "model.num-heads=1,2,3", "--workdir", place, "--train.steps", "6"]
        return [*words, "--train.log-every", "1"]

    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    status, out, err = command(*arguments(straight))
    assert status == 1 and "failed: 1 of 3 runs" in err
    process, deadline = command(*arguments(stopped), wait=False), time.monotonic() + 300
    metrics = stopped / "model.num-heads=2" / "seed_0" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 1):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM and "the same command goes on" in out, err
    assert not (stopped / "table.csv").exists()
    status, out, err = command(*arguments(stopped))
    assert status == 1 and "num-heads=1/seed_0: has finished before" in out
    first, second, failed = table(stopped)
    assert [first, second, failed] == table(straight)
    assert first["validation_loss"] != second["validation_loss"] and first["signature"].startswith("nrefs:1")
    assert "not a multiple of num_heads 3" in failed["problem"]
    assert json.loads((stopped / "table.json").read_text())[0]["validation_loss"]["values"]
