"""`result.json`: the scores of a run that has finished, and what computed them.

checkpoint        steps of the checkpoint, or of those averaged, that was scored
split             the examples that were scored; none without a test or validation split
scores            the task's metrics of those examples, with their signatures
device, devices   the kind of the devices, and how many shared the work
commit, version   of this package: a commit of its checkout with -dirty behind it if files differed, empty without one
"""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import transformer_jax
from transformer_jax.data.lines import json_object, write_whole
from transformer_jax.runs.metrics import as_json
from transformer_jax.version import __version__

RESULT = "result.json"
CPUINFO = Path("/proc/cpuinfo")
"""Linux's file that names the processor."""


def write_result(
    directory: Path, *, checkpoint: list[int], split: str | None, scores: Mapping[str, Any], devices: list[Any]
) -> None:
    """Writes the result of a run, scored on these devices."""
    result = {
        "checkpoint": list(checkpoint),
        "split": split,
        "scores": {name: as_json(value) for name, value in scores.items()},
        "device": device_name(devices[0]),
        "devices": len(devices),
        "commit": commit(),
        "version": __version__,
    }
    write_whole(directory / RESULT, (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())


def read_result(directory: Path) -> dict[str, Any] | None:
    """The result of a run; None if it has not finished, or finished before results were written.

    Raises ValueError for a file that is not as `write_result` writes it.
    """
    path = directory / RESULT
    if not path.is_file():
        return None
    result = json_object(path.read_bytes(), str(path))
    steps, scores = result.get("checkpoint"), result.get("scores")
    texts = all(isinstance(result.get(name), str) for name in ("device", "commit"))
    if not (isinstance(steps, list) and steps and all(isinstance(step, int) for step in steps)):
        raise ValueError(f"{path} does not name the steps of a checkpoint; remove it and train again")
    if not isinstance(scores, dict) or not texts or not {"split", "devices"} <= result.keys():
        raise ValueError(f"{path} does not have the scores of a run and what computed them; remove it and train again")
    return result


def device_name(device: Any = None) -> str:
    """The kind of a device, by default the first; a CPU's is the processor with the number of its cores in use."""
    kind = (device or jax.devices()[0]).device_kind
    if kind != "cpu":
        return kind
    lines = CPUINFO.read_text(errors="replace").splitlines() if CPUINFO.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} core{'' if cores == 1 else 's'}"


def cpu_kind() -> str:
    """A hash of what this machine's processors can do, as Linux tells it."""
    lines = CPUINFO.read_text(errors="replace").splitlines() if CPUINFO.exists() else []
    kinds = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return hashlib.blake2b("\n".join([platform.machine(), *kinds]).encode(), digest_size=6).hexdigest()


def origin_of(commit: str, version: str) -> str:
    """What made numbers: the commit or, of an installed package, the version."""
    return commit or f"version {version}".strip()


def commit() -> str:
    """The commit of the checkout that this package is imported from; empty if it is not one, or git is missing."""
    root = Path(str(transformer_jax.__file__)).resolve().parents[1]
    if not (root / ".git").exists():  # an installed package may lie inside a checkout of something else
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
