"""Two processes of four devices each train one run; one is killed, or told to stop; another number of them goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from transformer_jax.cli.main import main
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.parallel.mesh import MeshConfig, local_mesh
from transformer_jax.runs.checkpoint_folder import read_facts
from transformer_jax.runs.evaluation import Evaluation, encoded_examples
from transformer_jax.runs.metrics import read_metrics
from transformer_jax.runs.run import Run

ROOT = Path(__file__).parents[2]
TIMEOUT = 10
"""Seconds after which a process counts as lost."""
LAST = 12
OPTIONS = [
    f"--train.lost-process-timeout={TIMEOUT}",
    "--train.steps=99",
    f"--train.stop-after={LAST}",
    "--train.validation-examples=16",
]
SLOWLY = """
import os, pathlib, sys, time
import transformer_jax.data.pipeline as pipeline
pathlib.Path(os.environ["PIDS"], os.environ["JAX_PROCESS_ID"] + "." + str(os.getpid())).touch()
batches = pipeline.batches
def slowly(*args, **kwargs):
    for batch in batches(*args, **kwargs):
        time.sleep(float(os.environ["PAUSE"]))
        yield batch
pipeline.batches = slowly
from transformer_jax.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


class Together:
    """A run of two processes that the launcher supervises."""

    def __init__(self, file, run, *options, restarts=0, pause=0.0, before=""):
        self.run, self.pids = run, run.with_name(f"{run.name}.pids")
        self.pids.mkdir(exist_ok=True)
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "JAX_NUM_CPU_DEVICES": "4",
            "PROCESSES": "2",
            "RESTARTS": str(restarts),
            "PAUSE": str(pause),
            "PIDS": str(self.pids),
        }
        script = f'source "{ROOT}/launch/processes.sh"; supervise "$@"'
        train = [
            sys.executable,
            "-c",
            f"{before}\n{SLOWLY}",
            "train",
            str(file),
            "--workdir",
            str(run),
            *OPTIONS,
            *options,
        ]
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *train],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pid(self, index):
        """Of the process with this index that was started last."""
        return max(int(path.suffix[1:]) for path in self.pids.glob(f"{index}.*"))

    def wait_for_step(self, step):
        deadline = time.monotonic() + 600
        while not (self.run / "metrics.jsonl").exists() or len(read_metrics(self.run)) < step:
            assert self.process.poll() is None and time.monotonic() < deadline, self.process.communicate()
            time.sleep(0.05)

    def end(self):
        out, err = self.process.communicate(timeout=600)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def file(experiment_text, tmp_path_factory):
    file = tmp_path_factory.mktemp("processes") / "tiny.py"
    file.write_text(experiment_text.replace("data=1", "data=4, fsdp=2"), encoding="utf-8")
    return file


COUNTING = """
import os, pathlib
import numpy as np
from transformer_jax.tasks.predictor import Predictor
shard = Predictor.shard
def counting(self, array):
    sharded = shard(self, array)
    if isinstance(array, np.ndarray) and array.ndim == 1:
        lengths = np.concatenate([part.data for part in sharded.addressable_shards])
        with pathlib.Path(os.environ["PIDS"], "decoded." + os.environ["JAX_PROCESS_ID"]).open("a") as file:
            file.write(f"{(lengths > 0).sum()} of {(array > 0).sum()}\\n")
    return sharded
Predictor.shard = counting
"""


@pytest.fixture(scope="module")
def unbroken(file):
    """The run that nothing interrupts."""
    run = file.with_name("unbroken")
    status, out, err = Together(file, run, before=COUNTING).end()
    assert status == 0, err
    assert out.count("process 1 of 2, 8 devices, 4 of them here") == 1 and out.count(f"step {LAST}/99  loss") == 1
    return run


def rows(run):
    names = ("step", "loss", "gradient_norm", "validation_loss")
    return [{name: row[name] for name in names if name in row} for row in read_metrics(run)]


def parameters(run):
    return named_parameters(Run.open(run).model_of([LAST]))


@pytest.mark.slow
def test_each_process_decodes_half_and_the_scores_are_those_of_one(unbroken):
    for process in "01":
        counts = (unbroken.with_name("unbroken.pids") / f"decoded.{process}").read_text().splitlines()
        assert set(counts) == {"8 of 16"} and len(counts) == LAST // 4, "every evaluation, shared out"
    run = Run.open(unbroken)
    examples = encoded_examples(run, run.examples("validation")[0][:16])
    one = Evaluation(run, examples, local_mesh(MeshConfig()))
    (last,) = (row for row in read_metrics(unbroken) if row["step"] == LAST)
    for name, value in one(run.model_of([LAST])).items():
        if name in run.experiment.task.metrics():
            assert last[f"validation_{name}"] == pytest.approx(value, rel=1e-5 if name == "loss" else 0), name


def is_running(pid):
    """Whether the process is there and not only waited for."""
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rsplit(")")[-1].split()[0] != "Z"


@pytest.mark.slow
def test_after_a_kill_the_others_end_and_the_launcher_goes_on_to_the_same_bits(file, unbroken):
    run = file.with_name("killed")
    together = Together(file, run, restarts=1, pause=0.5)
    together.wait_for_step(5)
    doomed, other = together.pid(1), together.pid(0)
    os.kill(doomed, signal.SIGKILL)
    killed = time.monotonic()
    while is_running(other):
        assert time.monotonic() < killed + TIMEOUT + 60, "the other process did not end"
        time.sleep(0.1)
    status, out, err = together.end()
    assert status == 0, err
    assert "starting again from the newest checkpoint" in err and "going on from step" in out
    assert rows(run) == rows(unbroken)
    found, expected = (read_facts(one / "checkpoints" / str(LAST))["arrays"] for one in (run, unbroken))
    assert found == expected and len(found["optimizer"]) > 50


def test_a_signal_to_one_process_stops_all_and_one_process_goes_on(file, unbroken, capsys):
    run = file.with_name("stopped")
    together = Together(file, run, pause=0.5)
    together.wait_for_step(2)
    os.kill(together.pid(1), signal.SIGTERM)
    status, out, err = together.end()
    assert status == 143, err
    assert "stopped and saved at step" in out
    saved = Run.open(run).checkpoints().steps()
    assert saved[-1] < LAST
    assert main(["train", str(file), "--workdir", str(run), *OPTIONS, "--mesh.fsdp", "1", "--mesh.tensor", "2"]) == 0
    assert f"going on from step {saved[-1]}\n" in capsys.readouterr().out
    for one, other in zip(rows(run), rows(unbroken), strict=True):
        # The step that the signal came at is not evaluated.
        assert one == pytest.approx({name: other[name] for name in one}, rel=1e-5)
    expected = parameters(unbroken)
    for name, array in parameters(run).items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5, err_msg=name)


FULL_DISK = """
import os
from transformer_jax.runs.evaluation import Evaluation, encoded_examples
from transformer_jax.runs.metrics import MetricsLog
write = MetricsLog.write
def fail(self, row):
    if row["step"] == 4 and os.environ["JAX_PROCESS_ID"] == "0":
        raise OSError(28, "No space left on device")
    write(self, row)
MetricsLog.write = fail
"""


@pytest.mark.slow
def test_an_error_in_one_process_is_said_and_ends_all(file):
    """At a step that is not saved: the other is waiting for a device, not for a checkpoint."""
    together = Together(file, file.with_name("full"), "--train.save-every=3", before=FULL_DISK)
    status, _, err = together.end()
    assert status not in (0, 2, 130, 143)
    assert "failed: OSError: [Errno 28] No space left on device" in err


LONG_TEXT = """
import time
import transformer_jax.runs.preparation as preparation
preparation.training_table = lambda *args, **kwargs: time.sleep(600)
"""


@pytest.mark.slow
def test_a_signal_while_text_is_prepared_ends_all_and_starts_nothing_again(file):
    together = Together(file, file.with_name("preparing"), restarts=2, before=LONG_TEXT)
    deadline = time.monotonic() + 600
    while not together.run.exists():
        assert together.process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)  # both are waiting now, one for the other
    together.process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    status, _, err = together.end()
    assert status == 143 and "starting again" not in err
    assert time.monotonic() < told + TIMEOUT + 200


@pytest.mark.slow
def test_directories_that_only_look_the_same_are_refused(file, unbroken):
    """Each host with a copy of its own: the second process is given another."""
    other = file.with_name("copy")
    shutil.copytree(unbroken, other)
    swap = f"""
import os, sys
if os.environ["JAX_PROCESS_ID"] == "1":
    sys.argv[sys.argv.index({str(unbroken)!r})] = {str(other)!r}
"""
    together = Together(file, unbroken, before=swap)
    status, _, err = together.end()
    assert status == 2 and "is not seen here; name one that all share" in err


@pytest.mark.slow
def test_processes_started_otherwise_are_refused_by_all(file):
    run = file.with_name("different")
    together = Together(file, run, before='import os, sys; sys.argv += ["--train.seed", os.environ["JAX_PROCESS_ID"]]')
    status, out, err = together.end()
    assert status == 2
    assert "the first process was started otherwise: train.seed was 0, now 1" in err
    assert "another process failed" in err
