"""launch/environment.sh, and what all launchers have from it."""

import itertools
from typing import Any

import pytest

LAUNCHES = {
    "kubernetes.sh": ["--name", "a", "--image", "b", "--claim", "c", "experiments/mine.py", "--x", "a b"],
    "local.sh": ["experiments/mine.py", "--x", "a b"],
    "skypilot.sh": ["--bucket", "a", "--use-spot", "experiments/mine.py", "--x", "a b"],
    "slurm.sbatch": ["experiments/mine.py", "--x", "a b"],
    "test.sh": ["-k", "a b"],
    "tpu_vm.sh": ["--name", "a", "--zone", "b", "train", "experiments/mine.py", "--workdir", "a b"],
}
TOOLS = {
    "kubernetes.sh": ("kubectl", "install it: https://kubernetes.io"),
    "skypilot.sh": ("sky", "install SkyPilot: https://docs.skypilot.co"),
    "slurm.sbatch": ("srun", "submit to nodes"),
    "tpu_vm.sh": ("gcloud", "install the Google Cloud CLI: https://cloud.google.com/sdk"),
}
JOB = {"SLURM_JOB_ID": "77", "ACCELERATOR": "cpu"}


@pytest.mark.parametrize("script", LAUNCHES)
def test_a_dry_run_is_one_wherever_the_arguments_say_so(machine: Any, script: str):
    machine.commit()
    for program in ("kubectl", "sky", "srun", "gcloud", "python3"):
        machine.program(program)
    first, *others = (
        machine.launch(script, *LAUNCHES[script][:place], "--dry-run", *LAUNCHES[script][place:], **JOB)
        for place in range(len(LAUNCHES[script]) + 1)
    )
    assert machine.called() == []
    assert (first.returncode, first.stderr) == (0, "")
    assert "a b" in first.stdout.replace("\\", "")
    assert "dry-run" not in first.stdout
    assert all((other.returncode, other.stdout) == (0, first.stdout) for other in others)


@pytest.mark.parametrize("script", TOOLS)
def test_a_missing_tool_is_named_and_a_dry_run_does_without(machine: Any, script: str):
    machine.commit()
    machine.bare()
    tool, advice = TOOLS[script]
    refusal = machine.refused(script, *LAUNCHES[script], **JOB)
    assert refusal.startswith(f"no program {tool} on this machine; {advice}")
    assert machine.launch(script, *LAUNCHES[script], "--dry-run", **JOB).returncode == 0


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("script", sorted(LAUNCHES.keys() - {"local.sh"}))
def test_help_is_the_head_of_the_launcher_and_needs_nothing(machine: Any, script: str, option: str):
    machine.bare()
    result = machine.launch(script, option, CHECKOUT="/nowhere")
    assert (result.returncode, result.stderr) == (0, "")
    lines = (machine.checkout / "launch" / script).read_text().splitlines()[1:]
    head = itertools.takewhile(lambda line: line.startswith("#"), lines)
    assert result.stdout.splitlines() == [line[2:] for line in head if not line.startswith("#SBATCH")]
    assert f"launch/{script}" in result.stdout


def test_help_of_local_is_the_training_s(machine: Any):
    result = machine.launch("local.sh", "--dry-run", "experiments/mine.py", "--help", **JOB)
    assert result.stdout.endswith("train experiments/mine.py --workdir runs/mine --help\n")


OLD = '[[ "$1" != -c ]] || exit 1; [[ "$*" != *find* ]] || echo /new/python; [[ "$*" != *"${FAILS:-nothing}"* ]]'


def find_python(machine: Any, **environment: str) -> str:
    """What is found where python3 is too old, or nothing."""
    machine.bare()
    machine.program("python3", OLD)
    result = machine.command("bash", "-c", "source launch/environment.sh; find_python", **environment)
    assert (result.returncode == 0) == bool(result.stdout)
    return result.stdout.strip()


def test_a_newer_python_is_installed_where_that_was_asked_for(machine: Any):
    assert find_python(machine, INSTALL_PYTHON="yes") == "/new/python"
    assert [call[1:4] for call in machine.called("python3")[1:]] == [
        ["-m", "pip", "install"],
        ["-m", "uv", "python"],
        ["-m", "uv", "python"],
    ]


@pytest.mark.parametrize(
    "environment",
    [{}, {"INSTALL_PYTHON": "yes", "PYTHON": "python3"}, {"INSTALL_PYTHON": "yes", "FAILS": "pip install"}],
)
def test_otherwise_an_old_python_is_none(machine: Any, environment: dict[str, str]):
    assert find_python(machine, **environment) == ""
    assert not [call for call in machine.called("python3") if "uv" in call[1:3]]
