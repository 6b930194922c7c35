"""launch/slurm.sbatch, with a SLURM of four programs."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sbatch"
JOB = {"SLURM_JOB_ID": "77"}


@pytest.fixture
def slurm(machine: Any) -> Any:
    """A cluster where scancel signals the step that srun runs, and the job is running unless a file says otherwise."""
    with (machine.checkout / "launch" / "environment.sh").open("a") as file:
        file.write('set_up() { echo "set up"; eval "${DURING_SET_UP:-}"; }\n')
    machine.program("srun", 'echo "$$" >pid; trap "sleep 0.3; echo saved; exit 143" TERM; eval "${TRAINING:-}"')
    machine.program("scancel", '[[ ! -f pid ]] || kill -TERM "$(cat pid)"')
    machine.program("scontrol", '[[ "$1" == show ]] && echo "JobId=77 JobState=${STATE:-RUNNING} Reason=None"; exit 0')
    machine.environment["SLURM_SUBMIT_DIR"] = str(machine.checkout)
    return machine


def submitted(slurm: Any, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The job, which runs a copy of the script."""
    copy = slurm.directory / "slurm_script"
    copy.write_bytes(SCRIPT.read_bytes())
    return slurm.command("bash", str(copy), *arguments, **JOB, **environment)


def requeued(slurm: Any) -> bool:
    return ["scontrol", "requeue", "77"] in slurm.called()


def test_the_options_of_sbatch_requeue_and_give_time_to_save():
    options = re.findall(r"^#SBATCH (\S+)$", SCRIPT.read_text(), re.MULTILINE)
    assert {"--requeue", "--open-mode=append", "--signal=B:TERM@120"} <= {*options}
    first = SCRIPT.read_text().split("\n")[1:]
    assert all(line.startswith("#SBATCH ") for line in first[: len(options)])


def test_the_job_step_trains_with_every_argument_as_given(slurm: Any, arguments: list[str]):
    result = submitted(slurm, "experiments/mine.py", "--workdir", "the run", *arguments)
    assert (result.returncode, result.stdout) == (0, "set up\n")
    command = [f"{slurm.checkout}/.venv/bin/transformer-jax", "train", "experiments/mine.py", "--workdir", "the run"]
    assert slurm.called() == [["srun", "--kill-on-bad-exit=0", *command, *arguments]]


def test_a_dry_run_prints_that_step_and_runs_nothing(slurm: Any, arguments: list[str]):
    result = slurm.launch("slurm.sbatch", "--dry-run", "experiments/mine.py", *arguments)
    assert result.returncode == 0
    assert slurm.called() == []
    printed = slurm.command("bash", "-c", result.stdout)
    assert printed.returncode == 0
    assert slurm.called()[0][-len(arguments) :] == arguments
    submitted(slurm, "experiments/mine.py", *arguments)
    first, second = slurm.called()
    assert first == second


@pytest.mark.parametrize("status", [0, 1, 2, 130])
def test_finished_failed_and_mistaken_runs_are_not_requeued(slurm: Any, status: int):
    assert submitted(slurm, "experiments/mine.py", TRAINING=f"exit {status}").returncode == status
    assert not requeued(slurm)


def test_a_job_that_is_told_to_stop_waits_for_the_save_and_is_requeued(slurm: Any):
    # What SLURM does two minutes before the end: SIGTERM to the batch script alone; and more of them while it is ended.
    training = '(for _ in 1 2 3; do kill -TERM "$PPID"; sleep 0.05; done) & while :; do sleep 0.05; done'
    result = submitted(slurm, "experiments/mine.py", TRAINING=training)
    assert result.returncode == 143
    assert ["scancel", "--signal=TERM", "77"] in slurm.called()
    assert requeued(slurm)
    assert re.fullmatch(r"set up\n(saved\n)+not finished; requeued, .*\n", result.stdout)


def test_a_preempted_step_is_requeued_though_the_script_was_not_told(slurm: Any):
    assert submitted(slurm, "experiments/mine.py", TRAINING="exit 143").returncode == 143
    assert requeued(slurm)


def test_a_signal_during_set_up_starts_no_training(slurm: Any):
    result = submitted(slurm, "experiments/mine.py", DURING_SET_UP="kill -TERM $$")
    assert result.returncode == 143
    assert slurm.called("srun") == []
    assert requeued(slurm)


def test_a_run_that_finishes_after_the_signal_counts_as_finished(slurm: Any):
    training = 'trap "sleep 0.2; exit 0" TERM; kill -TERM "$PPID"; while :; do sleep 0.05; done'
    assert submitted(slurm, "experiments/mine.py", TRAINING=training).returncode == 0
    assert not requeued(slurm)


def test_a_cancelled_job_does_not_come_back(slurm: Any):
    result = submitted(slurm, "experiments/mine.py", TRAINING="exit 143", STATE="COMPLETING")
    assert result.returncode == 143
    assert not requeued(slurm)


def test_a_crash_is_tried_again_five_times(slurm: Any):
    assert submitted(slurm, "experiments/mine.py", TRAINING="exit 134").returncode == 134
    assert requeued(slurm)
    for call in slurm.calls.iterdir():
        call.unlink()
    assert submitted(slurm, "experiments/mine.py", TRAINING="exit 134", SLURM_RESTART_COUNT="5").returncode == 134
    assert not requeued(slurm)


def test_a_job_that_cannot_be_requeued_says_so_and_is_not_finished(slurm: Any):
    slurm.program("scontrol", '[[ "$1" == show ]] && echo JobState=RUNNING')
    result = submitted(slurm, "experiments/mine.py", TRAINING="exit 143")
    assert result.returncode == 143
    assert result.stderr.startswith("error: not finished, and SLURM does not requeue it")


def test_mistakes_are_refused_before_anything_runs(slurm: Any):
    assert "name an experiment file" in slurm.refused("slurm.sbatch", "--workdir", "x", **JOB)
    assert "no file other.py in" in slurm.refused("slurm.sbatch", "other.py", **JOB)
    assert "no checkout in /nowhere: submit from" in slurm.refused("slurm.sbatch", "x.py", CHECKOUT="/nowhere", **JOB)
    assert "this is a batch script: sbatch" in slurm.refused("slurm.sbatch", "experiments/mine.py")
