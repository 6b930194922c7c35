"""Programs that read what others wrote, each in a process of its own without more than some time and memory."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Limits(NamedTuple):
    """What a process may take."""

    seconds: int
    """Of processor time; it may wait for four times as long."""
    memory: int
    """Bytes."""


def run_limited(program: Path, request: str, limits: Limits, what: str, *arguments: str, needed: bool = False) -> str:
    """What a Python file writes to stdout when it has `request` on stdin, of which it may read nothing before.

    Of this package it can import nothing. Raises ValueError, about `what`, where it ends in an error or takes more;
    where processes cannot be limited it has a limit of time alone, or an error if limits are `needed`.
    """
    command = [sys.executable, "-I", str(program), *arguments]
    # Every thread reserves memory.
    environment = os.environ | {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUTF8": "1"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=environment, text=True, encoding="utf-8", errors="replace", **pipes) as process:
        try:
            if not _limited(process.pid, limits) and needed:
                raise ValueError(f"{what} cannot be used: limits of time and memory need Linux")
            written, errors = process.communicate(request, timeout=4 * limits.seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise ValueError(f"{what} takes more than {4 * limits.seconds} seconds") from None
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        said = errors.strip().splitlines() if process.returncode > 0 else []  # else a signal ended it
        reason = (said or [f"it takes more than {limits.seconds} seconds or its memory"])[-1]
        raise ValueError(f"{what} cannot be used: {reason}")
    return written


def _limited(process: int, limits: Limits) -> bool:
    """Limits a process that waits; False where that cannot be."""
    try:
        import resource

        for limit, size in ((resource.RLIMIT_CPU, limits.seconds), (resource.RLIMIT_AS, limits.memory)):
            resource.prlimit(process, limit, (size, size))
        resource.prlimit(process, resource.RLIMIT_CORE, (0, 0))
    except (AttributeError, ImportError, OSError, ValueError):
        return False
    return True
