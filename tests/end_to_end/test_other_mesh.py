"""A run goes on on another mesh: the same numbers, the same arrays, the same batches."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from transformer_jax.cli.main import main
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.runs.metrics import read_metrics
from transformer_jax.runs.run import Run
from transformer_jax.runs.trainer import named_leaves
from transformer_jax.training.step import abstract_state, make_update

pytestmark = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")

NOTING = '''
import json
from pathlib import Path

from transformer_jax import Translation as Plain


@dataclass(frozen=True)
class Translation(Plain):
    """Notes which examples every batch has."""

    def augment(self, batch, tokenizers, *, seed, epoch):
        with Path("examples.jsonl").open("a") as file:
            file.write(json.dumps([epoch, *batch["example"].tolist()]) + "\\n")
        return batch


def experiment():'''
STEPS = 8
# 8 devices to 1, 1 to 4, and from devices that divide layers to ones that share out parameters.
MESHES = ({"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1}, {"data": 2, "tensor": 2}, {"data": 1, "fsdp": 4})


@pytest.fixture
def train(experiment_file, tmp_path, monkeypatch, capsys):
    """Trains on a mesh up to a step; the examples of every batch that was made meanwhile."""
    text = experiment_file.read_text(encoding="utf-8")
    experiment_file.write_text(text.replace("\ndef experiment():", NOTING), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    options = ["--train.steps", "20", "--train.save-every", "0", "--train.keep", "9"]
    options += ["--train.validation-examples", "0", "--train.evaluate-every", "0", "--train.best", ""]

    def run(directory, mesh, stop):
        axes = [text for axis, size in mesh.items() for text in (f"--mesh.{axis}", str(size))]
        arguments = ["train", str(experiment_file), "--workdir", directory, *options, *axes]
        assert main([*arguments, "--train.stop-after", str(stop)]) == 0, capsys.readouterr().err
        notes = tmp_path / "examples.jsonl"
        lines = notes.read_text(encoding="utf-8").splitlines()
        notes.unlink()
        return [line for line in lines if any(json.loads(line))]  # a batch of zeros stands in for one of shapes alone

    return run


def saved(directory, step):
    """Every array of a checkpoint, read without any of our code."""
    folder = (directory / "checkpoints" / str(step)).absolute()
    return {item: ocp.StandardCheckpointHandler().restore(folder / item) for item in ("model", "optimizer")}


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh_with_the_numbers_and_batches_of_one(train, tmp_path):
    straight = train("straight", {"data": 1}, STEPS)
    for i, mesh in enumerate(MESHES):
        lines = train("run", mesh, 2 * i + 2)
        assert lines[:2] == straight[2 * i : 2 * i + 2], mesh
    rows, expected = read_metrics(tmp_path / "run"), read_metrics(tmp_path / "straight")
    assert [row["step"] for row in rows] == [row["step"] for row in expected] == list(range(1, STEPS + 1))
    for name in ("loss", "nll", "gradient_norm", "learning_rate", "tokens"):
        found, wanted = ([row[name] for row in of] for of in (rows, expected))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, err_msg=name)
    assert len({row["loss"] for row in expected}) == STEPS

    run = Run.open(tmp_path / "run")
    update = make_update(run.experiment)
    for step, mesh in ((2, MESHES[1]), (6, MESHES[3])):
        arrays = saved(run.directory, step)
        state = abstract_state(run.experiment.model, update.optimizer, make_mesh(MeshConfig(**mesh)))
        wanted = {"model": named_parameters(state.model), "optimizer": named_leaves(state.optimizer)}
        restored = run.checkpoints().restore(step, model=wanted["model"], optimizer=wanted["optimizer"])
        for item, found in (("model", restored.model), ("optimizer", restored.optimizer)):
            assert found is not None and found.keys() == arrays[item].keys() and len(found) > 20
            for name, array in found.items():
                np.testing.assert_array_equal(array, arrays[item][name], err_msg=name)
                assert array.sharding.is_equivalent_to(wanted[item][name].sharding, array.ndim), name
