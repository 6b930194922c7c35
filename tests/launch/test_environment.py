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
