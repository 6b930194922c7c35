"""What launch/processes.sh makes of the ends of processes."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def supervise(tmp_path, body, *arguments, **variables):
    """Starts the bash lines `body` as the command; `$runs` there is a file that every process adds a line to."""
    script = f"""
source "{ROOT}/launch/processes.sh"
export runs="{tmp_path}/runs"
supervise bash -c 'echo "${{JAX_PROCESS_ID:-alone}} $*" >>"$runs"; {body}' command "$@"
"""
    return subprocess.Popen(
        ["bash", "-c", script, "bash", *arguments],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(tmp_path):
    return sorted((tmp_path / "runs").read_text().splitlines())


@pytest.mark.parametrize("status", [0, 2, 130, 143])
def test_a_final_end_is_not_followed_by_another_start(tmp_path, status):
    assert supervise(tmp_path, f"exit {status}", RESTARTS="5").wait() == status
    assert len(lines(tmp_path)) == 1


@pytest.mark.parametrize(("restarts", "starts"), [("0", 1), ("2", 3)])
def test_a_crash_is_followed_by_as_many_starts_as_allowed(tmp_path, restarts, starts):
    process = supervise(tmp_path, "exit 134", RESTARTS=restarts)
    _, err = process.communicate()
    assert process.returncode == 134
    assert len(lines(tmp_path)) == starts and err.count("starting again") == starts - 1


def test_a_start_that_ends_well_is_the_last(tmp_path):
    body = '(($(wc -l <"$runs") == 2)) || kill -KILL $$'
    assert supervise(tmp_path, body, RESTARTS="5").wait() == 0
    assert len(lines(tmp_path)) == 2


def test_several_processes_are_numbered_and_get_the_same_arguments(tmp_path):
    arguments = ["a b", "$HOME", '"', "--x=*"]
    body = '[[ "$JAX_NUM_PROCESSES" == 3 && "$JAX_COORDINATOR_ADDRESS" == 127.0.0.1:* ]]'
    assert supervise(tmp_path, body, *arguments, PROCESSES="3").wait() == 0
    assert lines(tmp_path) == [f"{index} {' '.join(arguments)}" for index in range(3)]


def test_a_crash_of_one_process_outweighs_the_ends_of_others(tmp_path):
    body = "exit $((JAX_PROCESS_ID == 1 ? 137 : 143))"
    assert supervise(tmp_path, body, PROCESSES="3").wait() == 137


@pytest.mark.parametrize("mistaken", [0, 1])
@pytest.mark.parametrize("other", [0, 1, 143])
def test_a_mistake_of_one_process_is_not_made_again_whatever_becomes_of_the_other(tmp_path, mistaken, other):
    body = f"exit $((JAX_PROCESS_ID == {mistaken} ? 2 : {other}))"
    assert supervise(tmp_path, body, PROCESSES="2", RESTARTS="2").wait() == 2
    assert len(lines(tmp_path)) == 2


def test_a_process_alone_is_told_of_no_others(tmp_path):
    assert supervise(tmp_path, '[[ -z "${JAX_NUM_PROCESSES:-}" ]]').wait() == 0


def assert_ends_when_told(process, tmp_path):
    """Both processes have started; SIGTERM ends the supervision with its status, and nothing is started again."""
    deadline = time.monotonic() + 200
    while not (tmp_path / "runs").exists() or len(lines(tmp_path)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(200) == 143
    assert len(lines(tmp_path)) == 2


def test_sigterm_reaches_all_processes_and_ends_the_supervision(tmp_path):
    body = 'trap "exit 143" TERM; while true; do sleep 0.05; done'
    process = supervise(tmp_path, body, PROCESSES="2", RESTARTS="5")
    assert_ends_when_told(process, tmp_path)


def test_what_was_told_to_stop_is_not_started_again_whatever_the_others_end_with(tmp_path):
    body = 'trap "exit $((JAX_PROCESS_ID ? 134 : 143))" TERM; while true; do sleep 0.05; done'
    process = supervise(tmp_path, body, PROCESSES="2", RESTARTS="5")
    assert_ends_when_told(process, tmp_path)


@pytest.mark.parametrize("variables", [{"PROCESSES": "0"}, {"PROCESSES": "two"}, {"RESTARTS": "-1"}])
def test_numbers_that_are_none_start_nothing(tmp_path, variables):
    process = supervise(tmp_path, "exit 0", **variables)
    _, err = process.communicate()
    assert process.returncode == 2 and err.startswith("error: PROCESSES is a number")
    assert not (tmp_path / "runs").exists()
