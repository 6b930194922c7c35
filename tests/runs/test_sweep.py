"""Runs of a sweep, with a stand-in for the training."""

import fcntl
import os
import signal
import stat
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from transformer_jax.cli.main import main
from transformer_jax.cli.sweep import folder, grid_rows
from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files
from transformer_jax.models.encoder_decoder import base
from transformer_jax.runs import sweep
from transformer_jax.runs.preparation import LOCK
from transformer_jax.runs.sweep import Job, Row, run_jobs
from transformer_jax.tasks.translation import Translation
from transformer_jax.training.experiment import Experiment

TRAINING = """#!{python}
import fcntl, pathlib, signal, sys, time
place = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
place.mkdir(parents=True, exist_ok=True)
def stop(number, frame):
    (place / "saved").touch()
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
with (place / "starts").open("a") as file:
    file.write("started\\n")
if "bad" in place.name:
    print("Traceback\\nfailed: ValueError: it is bad")
    sys.exit(1)
lock = (place / ".lock").open("a")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit(2)
if "long" in place.name and not (place / "saved").exists():
    time.sleep(60)
(place / "done").touch()
"""


class Marked(Job):
    @property
    def finished(self) -> bool:
        return (self.directory / "done").exists()


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes jobs of a training that does what the name of its directory says."""
    file = tmp_path / "training"
    file.write_text(TRAINING.format(python=sys.executable))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sweep.sys, "executable", str(file))
    monkeypatch.chdir(tmp_path)
    experiment = Experiment(task=Translation(), data=DataConfig(source=Files()), model=base())

    def make(*names: str) -> list[Job]:
        places = [tmp_path / name for name in names]
        return [Marked(Row(place.name), 0, place, ("train", "--workdir", str(place)), experiment) for place in places]

    return make


def starts(job: Job) -> int:
    return len((job.directory / "starts").read_text().splitlines())


def test_a_failed_run_has_its_reason_and_the_others_are_done_once(jobs):
    several, said = jobs("one", "bad", "two"), []
    for _ in range(2):
        assert run_jobs(several, said.append) == {several[1].directory: "ValueError: it is bad"}
    assert list(map(starts, several)) == [1, 2, 1]
    assert said[-1].endswith("two: has finished before")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_training_save_and_ends_the_sweep_which_goes_on_from_there(jobs, number):
    several = jobs("one", "long", "two")

    def send():
        while not (several[1].directory / "starts").exists():
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    with pytest.raises(SystemExit) as stop:
        run_jobs(several, lambda line: None)
    assert stop.value.code == 128 + number
    assert (several[1].directory / "saved").exists() and not several[2].directory.exists()
    assert run_jobs(several, lambda line: None) == {}
    assert list(map(starts, several)) == [1, 2, 1]


def test_a_run_that_a_killed_sweep_left_behind_is_waited_for(jobs, monkeypatch):
    monkeypatch.setattr(sweep, "RETRY", 0.01)
    several, said = jobs("busy", "two"), []
    several[0].directory.mkdir()
    with (several[0].directory / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def tell(line):
            said.append(line)
            if "waiting" in line:
                lock.close()

        assert run_jobs(several, tell) == {}
    assert list(map(starts, several)) == [1, 1] and said[1].endswith("waiting for the process that trains there")


def test_a_damaged_directory_is_recorded_and_the_others_are_trained(jobs, tmp_path):
    several = jobs("file", "two")
    (tmp_path / "file.log").mkdir()
    problems = run_jobs(several, lambda line: None)
    assert list(problems) == [several[0].directory] and "file.log" in problems[several[0].directory]
    assert starts(several[1]) == 1


def test_a_run_that_stops_early_has_not_finished(jobs):
    job = replace(jobs("one")[0], directory=Path("elsewhere"), arguments=jobs("two")[0].arguments)
    assert run_jobs([job], lambda line: None) == {job.directory: "it stopped before its last step"}


def test_a_grid_has_every_combination_of_its_values():
    rows = list(grid_rows(["model.d_model=64,128", "--optimizer.learning-rate=1e-3,3e-3"]))
    assert [row.name for row in rows][:2] == [
        "model.d-model=64,optimizer.learning-rate=1e-3",
        "model.d-model=64,optimizer.learning-rate=3e-3",
    ]
    assert rows[3].overrides == ("--model.d-model", "128", "--optimizer.learning-rate", "3e-3")


def test_a_field_has_one_grid():
    with pytest.raises(ValueError, match="names model.d-model twice"):
        list(grid_rows(["model.d_model=16", "model.d-model=32"]))


def test_directories_of_long_names_are_short_and_differ():
    names = ["x" * 300 + end for end in "ab"]
    assert len({*map(folder, names)}) == 2 and max(map(len, map(folder, names))) <= 200
    assert folder("a/b=1") == "a_b=1"


@pytest.mark.parametrize("grid", ["model.d-model", "=1", "model.d-model=", "model.d-model=1,"])
def test_a_grid_without_a_field_or_a_value_is_refused(grid, capsys):
    assert main(["sweep", "mine.py", "--grid", grid]) == 2
    assert "--grid is FIELD=A,B" in capsys.readouterr().err
