"""launch/skypilot.sh and the task that it starts."""

from typing import Any

import pytest
import yaml

OPTIONS = ["--bucket", "my-runs", "--gpus", "A100:8", "--use-spot"]
RUN = ["experiments/mine.py", "--workdir", "/storage/runs/mine"]


@pytest.fixture
def sky(machine: Any) -> Any:
    machine.program("sky")
    (machine.checkout / "launch" / "local.sh").write_text('training "$@"\n')
    machine.program("training", 'env | grep "^JAX_" >"$CALLS/../environment" || true')
    return machine


def started(sky: Any, *arguments: str) -> dict[str, str]:
    """What the task would see in its environment."""
    assert sky.launch("skypilot.sh", *OPTIONS, *arguments).returncode == 0
    (call,) = sky.called("sky")
    assert call[:3] == ["sky", "jobs", "launch"]
    assert call[5:] == ["--gpus", "A100:8", "--use-spot", "launch/skypilot.yaml"]
    return dict(option.removeprefix("--env=").split("=", 1) for option in call[3:5])


def task(sky: Any) -> dict[str, Any]:
    return yaml.safe_load((sky.checkout / "launch" / "skypilot.yaml").read_text())


def test_the_task_trains_with_every_argument_as_given(sky: Any, arguments: list[str]):
    environment = started(sky, "experiments/mine.py", *arguments)
    assert environment.keys() == task(sky)["envs"].keys()
    result = sky.command("bash", "-c", task(sky)["run"], SKYPILOT_NUM_NODES="1", **environment)
    assert result.returncode == 0, result.stderr
    assert sky.called("training") == [["training", *RUN, *arguments]]
    assert (sky.directory / "environment").read_text() == ""


def test_several_machines_find_the_first(sky: Any):
    nodes = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    sky.command("bash", "-c", task(sky)["run"], **nodes, **started(sky, "experiments/mine.py"))
    expected = ["JAX_COORDINATOR_ADDRESS=10.0.0.1:8476", "JAX_NUM_PROCESSES=2", "JAX_PROCESS_ID=1"]
    assert sorted((sky.directory / "environment").read_text().splitlines()) == expected


def test_the_exit_status_is_the_training_s_and_143_is_recovered_from(sky: Any):
    sky.program("training", "exit 143")
    environment = started(sky, "experiments/mine.py")
    assert sky.command("bash", "-c", task(sky)["run"], SKYPILOT_NUM_NODES="1", **environment).returncode == 143
    assert task(sky)["resources"]["job_recovery"]["recover_on_exit_codes"] == [143]


def test_a_machine_with_an_old_python_may_install_a_newer_one(sky: Any):
    (sky.checkout / "launch" / "environment.sh").write_text('set_up() { echo "${INSTALL_PYTHON:-no}"; }\n')
    assert sky.command("bash", "-c", task(sky)["setup"]).stdout == "yes\n"


def test_the_run_is_kept_in_the_bucket(sky: Any):
    environment = started(sky, "experiments/mine.py")
    assert environment["BUCKET"] == "my-runs"
    assert task(sky)["file_mounts"]["/storage"]["name"] == "${BUCKET}"


def test_a_dry_run_prints_the_command_and_runs_nothing(sky: Any, arguments: list[str]):
    result = sky.launch("skypilot.sh", "--dry-run", *OPTIONS, "experiments/mine.py", *arguments)
    assert result.returncode == 0
    assert sky.called() == []
    sky.command("bash", "-c", result.stdout)
    sky.launch("skypilot.sh", *OPTIONS, "experiments/mine.py", *arguments)
    printed, real = sky.called("sky")
    assert printed == real


def test_mistakes_are_refused_before_anything_runs(sky: Any):
    assert "--bucket BUCKET" in sky.refused("skypilot.sh", "experiments/mine.py")
    assert "name an experiment file" in sky.refused("skypilot.sh", *OPTIONS)
    assert "name an experiment file" in sky.refused("skypilot.sh", "--use-spot", "--bucket", "a")
    assert "no file other.py in" in sky.refused("skypilot.sh", *OPTIONS, "other.py")
