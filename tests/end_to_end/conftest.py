import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from transformer_jax.cli.main import main

EXPERIMENT = '''
from dataclasses import dataclass

from transformer_jax import (
    Bytes, DataConfig, Decoding, Experiment, MeshConfig, OptimizerConfig, Source, TrainConfig, Translation, base,
)


@dataclass(frozen=True)
class Backwards(Source):
    """Numbers to read backwards."""

    count: int = 60

    def examples(self, split):
        start = {"train": 1_000, "validation": 5_000, "test": 7_000}[split]
        return [{"source": str(n), "target": str(n)[::-1]} for n in range(start, start + self.count)]


def experiment():
    return Experiment(
        task=Translation(scores=("exact_match", "bleu"), decoding=Decoding(beam_size=2, extra_length=4)),
        data=DataConfig(source=Backwards(), tokenizer=Bytes(), max_length=16, tokens_per_batch=256, num_buckets=1),
        model=base(d_model=16, num_heads=2, d_ff=32, num_layers=1),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=5),
        train=TrainConfig(
            steps=12, log_every=1, evaluate_every=4, save_every=2, keep=3, validation_examples=4, best="validation_loss"
        ),
        mesh=MeshConfig(data=1),
    )
'''


@pytest.fixture(scope="session")
def experiment_text():
    """A run of a few steps on text of its own; the source is a class of the file."""
    return EXPERIMENT


@pytest.fixture
def experiment_file(experiment_text, tmp_path):
    """The file of such a run."""
    file = tmp_path / "tiny.py"
    file.write_text(experiment_text, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def uninterrupted(experiment_text, tmp_path_factory):
    """The directory of the run that nothing interrupts, trained once; no test may change it."""
    place = tmp_path_factory.mktemp("uninterrupted")
    (place / "tiny.py").write_text(experiment_text, encoding="utf-8")
    assert main(["train", str(place / "tiny.py"), "--workdir", str(place / "run")]) == 0
    return place / "run"


@pytest.fixture
def straight(uninterrupted, tmp_path):
    """A copy of that run."""
    return shutil.copytree(uninterrupted, tmp_path / "straight")


@pytest.fixture
def command():
    """Runs `transformer-jax` in a process of its own; `before` is Python code to run in it first."""

    def run(*arguments, before="", wait=True):
        root = Path(__file__).parents[2]
        code = f"import sys\n{before}\nfrom transformer_jax.cli.main import main\nsys.exit(main(sys.argv[1:]))"
        environment = os.environ | {"PYTHONPATH": str(root)}
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if not wait:
            return process
        out, err = process.communicate(timeout=600)
        return process.returncode, out, err

    return run
