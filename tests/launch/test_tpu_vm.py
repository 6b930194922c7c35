"""launch/tpu_vm.sh, with a gcloud whose two hosts are directories of this machine."""

import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TPU = ["--name", "pod", "--zone", "us-central2-b", "--project", "mine"]
WHERE = ["--worker=all", "--zone=us-central2-b", "--project=mine"]
GCLOUD = """
for option; do [[ "$option" != --command=* ]] || command="${option#--command=}"; done
for host in "$HOSTS"/*/; do
    case "$4" in
    scp) cp "$5" "$host/${6#*:}" ;;
    ssh) (cd "$host" && HOME="$host" CALLS="$host/calls" bash -c "$command") || exit ;;
    esac
done
"""
LOCAL = """
printf '%s\\0' "$@" >"$HOME/arguments"
echo "may install Python: ${INSTALL_PYTHON:-no}"
trap 'echo saved; exit 143' TERM
until [[ -e "$HOME/finish" ]]; do sleep 0.05; done
"""


def eventually(true: Callable[[], bool]) -> bool:
    """Whether something becomes true within ten seconds."""
    for _ in range(200):
        if true():
            return True
        time.sleep(0.05)
    return False


class Pod:
    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.hosts = [machine.directory / "hosts" / number for number in ("0", "1")]
        for host in self.hosts:
            (host / "calls").mkdir(parents=True)
        machine.environment["HOSTS"] = str(machine.directory / "hosts")
        machine.program("gcloud", GCLOUD)
        (machine.checkout / "launch" / "local.sh").write_text(LOCAL)
        machine.commit()

    def launch(self, *arguments: str) -> Any:
        return self.machine.launch("tpu_vm.sh", *TPU, *arguments)

    def log(self, host: int = 0) -> str:
        file = self.hosts[host] / "transformer_jax.log"
        return file.read_text() if file.exists() else ""

    def trains(self) -> bool:
        return all((host / "arguments").exists() and (host / "transformer_jax.pid").exists() for host in self.hosts)

    def finish(self) -> bool:
        for host in self.hosts:
            (host / "finish").touch()
        started = [number for number, host in enumerate(self.hosts) if (host / "arguments").exists()]
        return eventually(lambda: all("ended with" in self.log(number) for number in started))


@pytest.fixture
def pod(machine: Any) -> Iterator[Pod]:
    pod = Pod(machine)
    yield pod
    pod.finish()


TRAIN = ["train", "experiments/mine.py", "--workdir", "/mnt/the runs"]


def test_training_starts_on_every_host_with_every_argument_as_given(pod: Pod, arguments: list[str]):
    result = pod.launch(*TRAIN, *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(": started\n") == 2
    assert eventually(pod.trains)
    for host in pod.hosts:
        assert (host / "arguments").read_text().split("\0")[:-1] == [*TRAIN[1:], *arguments]
    copied, started = pod.machine.called("gcloud")
    assert copied[1:5] == ["compute", "tpus", "tpu-vm", "scp"]
    assert copied[6:] == ["pod:transformer_jax.tar.gz", *WHERE]
    assert started[1:6] == ["compute", "tpus", "tpu-vm", "ssh", "pod"]
    assert started[7:] == WHERE
    assert not Path(copied[5]).exists()
    assert pod.finish()
    assert "ended with exit status 0" in pod.log()


def test_a_dry_run_prints_the_commands_and_runs_none(pod: Pod, arguments: list[str]):
    result = pod.launch("--dry-run", *TRAIN, *arguments)
    assert result.returncode == 0
    assert pod.machine.called() == []
    assert pod.machine.command("bash", "-c", result.stdout).returncode == 0
    assert eventually(pod.trains)
    assert (pod.hosts[1] / "arguments").read_text().split("\0")[:-1] == [*TRAIN[1:], *arguments]
    words = shlex.split(result.stdout)
    assert [word for word in words if word in ("git", "gcloud", "rm")] == ["git", "gcloud", "rm", "gcloud"]


def test_changes_that_are_not_committed_are_copied_and_old_modules_are_not_kept(pod: Pod):
    stale = pod.hosts[0] / "transformer_jax" / "transformer_jax" / "removed.py"
    run = pod.hosts[0] / "transformer_jax" / "runs" / "mine" / "checkpoint"
    for file in (stale, run):
        file.parent.mkdir(parents=True)
        file.touch()
    (pod.machine.checkout / "experiments" / "mine.py").write_text("changed")
    assert pod.launch(*TRAIN).returncode == 0
    assert (pod.hosts[0] / "transformer_jax" / "experiments" / "mine.py").read_text() == "changed"
    assert run.exists()
    assert not stale.exists()


def test_a_host_trains_once_at_a_time_and_is_started_again_after_a_stop(pod: Pod):
    assert pod.launch(*TRAIN).returncode == 0
    assert eventually(pod.trains)
    again = pod.launch(*TRAIN)
    assert again.returncode == 2
    assert "is training already; stop that first" in again.stderr
    assert pod.launch("status").stdout.count(": training\n") == 2
    stopped = pod.launch("stop")
    assert stopped.returncode == 0
    assert stopped.stdout.count(": not training\nmay install Python: yes\nsaved\nended with exit status 143\n") == 2
    for host in pod.hosts:
        (host / "arguments").unlink()
    assert pod.launch(*TRAIN).returncode == 0
    assert eventually(pod.trains)


def test_mistakes_are_refused_before_anything_runs(pod: Pod):
    def refused(*arguments: str) -> str:
        return pod.machine.refused("tpu_vm.sh", *arguments)

    assert "say which TPU" in refused("--name", "pod", *TRAIN)
    assert "--zone needs a value" in refused("--name", "pod", "--zone")
    assert "unknown option --zon" in refused("--zon", "x", *TRAIN)
    assert "say what to do" in refused(*TPU, "tarin")
    assert "name an experiment file" in refused(*TPU, "train", "--workdir", "x")
    assert "--workdir RUN" in refused(*TPU, "train", "experiments/mine.py", "--workdirs", "x")
    (pod.machine.checkout / "new.py").touch()
    assert "if it is new, git add it" in refused(*TPU, "train", "new.py", "--workdir", "x")
