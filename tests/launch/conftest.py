"""Launchers are run as a person would run them, with programs that only write down how they were called."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARGUMENTS = ["--data.prompt", "a 'b' \"c\" $HOME $(HOME) `d` \\ & ; * é {x} %s\ttab\nline", "--train.name="]
"""What a shell, a manifest or a template could spoil."""


class Machine:
    """A directory with a checkout in it, and the programs of a cluster in front of the real ones."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.checkout, self.calls = directory, directory / "check out", directory / "calls"
        self.programs = directory / "programs"
        for path in (self.programs, self.calls, self.checkout / "launch", self.checkout / "experiments"):
            path.mkdir(parents=True)
        for path in (ROOT / "launch").iterdir():
            (self.checkout / "launch" / path.name).write_bytes(path.read_bytes())
        (self.checkout / "experiments" / "mine.py").write_text("")
        of_launchers = ("SLURM", "JAX", "SKYPILOT", "PYTHON", "INSTALL_PYTHON", "VENV", "DRY_RUN")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(of_launchers)}
        self.environment |= {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "CALLS": str(self.calls),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }

    def program(self, path: str | Path, does: str = "") -> None:
        """Makes a program that writes its arguments down, then does something."""
        file = self.programs / path
        record = 'printf "%s\\0" "${0##*/}" "$@" >"$CALLS/$(printf "%03d" "$(ls "$CALLS" | wc -l)")"'
        file.write_text(f"#!/usr/bin/env bash\n{record}\n{does}\n")
        file.chmod(0o755)

    def bare(self) -> None:
        """Leaves nothing on PATH but what every machine has, and the programs made here."""
        directory = self.directory / "bare"
        directory.mkdir()
        for name in ("bash", "basename", "cat", "dirname", "git", "ls", "sed", "wc"):
            path = shutil.which(name)
            assert path
            (directory / name).symlink_to(path)
        self.environment["PATH"] = f"{self.programs}:{directory}"

    def commit(self) -> None:
        """Makes the checkout a git repository with all that is in it."""
        for command in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -q -m first"):
            assert self.command("git", *command.split()).returncode == 0

    def called(self, name: str = "") -> list[list[str]]:
        """The calls so far, of all programs or one."""
        calls = [path.read_text().split("\0")[:-1] for path in sorted(self.calls.iterdir())]
        return [call for call in calls if name in ("", call[0])]

    def command(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.checkout, env=self.environment | environment, capture_output=True, text=True, timeout=300
        )

    def launch(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.command("bash", f"launch/{script}", *arguments, **environment)

    def refused(self, script: str, *arguments: str, **environment: str) -> str:
        """The one line on stderr that a mistake gives, without `error: `; nothing has been called."""
        result = self.launch(script, *arguments, **environment)
        assert result.returncode == 2
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert self.called() == []
        return result.stderr.removeprefix("error: ").strip()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def arguments() -> list[str]:
    return [*ARGUMENTS]
