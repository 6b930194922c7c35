"""Small trainings on any mesh, each compiled and run once for all tests of this folder."""

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from transformer_jax.models.decoder_only import gpt2
from transformer_jax.models.encoder_decoder import base
from transformer_jax.models.encoder_only import bert
from transformer_jax.nn.parameters import named_parameters, parameter_axes
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.language_modelling import LanguageModelling
from transformer_jax.tasks.masked_language_modelling import MaskedLanguageModelling
from transformer_jax.tasks.translation import Translation
from transformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from transformer_jax.training.step import abstract_model, abstract_state, batch_sharding, init_state, make_step

MESHES = {
    "one": MeshConfig(data=1),
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "tensor": MeshConfig(data=1, tensor=8),
    "data-tensor": MeshConfig(data=2, tensor=4),
    "fsdp-tensor": MeshConfig(data=1, fsdp=2, tensor=4),
    "data-fsdp-tensor": MeshConfig(data=2, fsdp=2, tensor=2),
    "data-tensor-sequence": MeshConfig(data=2, tensor=2, sequence=2),
}
ROWS, LENGTH, STEPS = 32, 12, 20
# 260 tokens in a table of 264 rows: no other dimension is a multiple of 33, nor of 264 over 8, 4 or 2 devices.
SIZE: dict[str, Any] = {"d_model": 16, "num_heads": 8, "d_ff": 24, "num_layers": 2, "vocab_size": 260, "dropout": 0.1}
DROPPED: dict[str, Any] = SIZE | {"attention_dropout": 0.1}
# What is composed with every mesh: micro-batches and a loss in chunks, and activations that are computed again.
VARIANTS = {
    "translation": (Translation(), base(**SIZE, source_vocab_size=260), 1),
    "language model": (LanguageModelling(loss_chunk=4), gpt2(**DROPPED, max_length=64), 2),
    "masked language model": (MaskedLanguageModelling(), bert(**DROPPED, max_length=LENGTH, remat=True), 1),
}
RATE = 0.5
# Each is compiled for seconds: these cover every mesh and every variant, all others run with --slow.
QUICK = (
    ("translation", "data"),
    ("translation", "fsdp"),
    ("translation", "tensor"),
    ("language model", "data-tensor-sequence"),
    ("masked language model", "data-tensor"),
    ("masked language model", "data-fsdp-tensor"),
)


def pytest_generate_tests(metafunc):
    """A test of `variant` and `mesh` is one of every variant on every mesh."""
    if {"variant", "mesh"} <= set(metafunc.fixturenames):
        pairs = [(variant, mesh) for variant in VARIANTS for mesh in MESHES if mesh != "one"]
        marked = [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow) for pair in pairs]
        metafunc.parametrize(("variant", "mesh"), marked)


class Trained(NamedTuple):
    """What 20 steps of SGD on one mesh gave."""

    losses: list[float]
    gradient: dict[str, np.ndarray]
    """Of the first step, as that moved the parameters."""
    parameters: dict[str, np.ndarray]
    state: Any
    wanted: Any
    """The shapes and shardings that the state should have."""
    text: str
    """The compiled step."""
    log: str
    """What the compiler wrote to standard error."""


def make_batch(task, seed):
    """A batch of random tokens."""
    rng = np.random.default_rng(seed)
    batch = {}
    for name, wanted in task.abstract_batch(ROWS, LENGTH).items():
        high = {"segments": 3, "places": LENGTH}.get(name, 260)
        low = {"segments": 1, "places": 0}.get(name, 4)
        array = rng.integers(low, high, wanted.shape, dtype=np.int32)
        array = np.sort(array, axis=1) if name in ("segments", "places") else array
        if name == "positions":
            array = np.tile(np.arange(wanted.shape[1], dtype=np.int32) % LENGTH, (ROWS, 1))
        batch[name] = rng.integers(2, LENGTH + 1, ROWS, dtype=np.int32) if name.endswith("_length") else array
    return batch


@contextlib.contextmanager
def collected() -> Iterator[list[str]]:
    """Collects, as one text, what is written to standard error, by C++ as well."""
    written: list[str] = []
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield written
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            written.append(file.read().decode(errors="replace"))


def setup(variant):
    """Task, model, micro-batches, optimizer and schedule."""
    task, model, accumulate = VARIANTS[variant]
    config = OptimizerConfig(name="sgd", schedule="constant", learning_rate=RATE, warmup_steps=1)
    schedule = make_schedule(config, model.d_model, STEPS)
    optimizer = make_optimizer(config, parameter_axes(abstract_model(model)), schedule)
    return task, model, accumulate, optimizer, schedule


@functools.cache
def first_state(variant):
    """The state before training, on one device."""
    _, model, _, optimizer, _ = setup(variant)
    return init_state(model, optimizer, 0, make_mesh(MESHES["one"]))


@functools.cache
def train(variant, mesh_name):
    """Trains a variant on a mesh, from the same parameters."""
    task, model, accumulate, optimizer, schedule = setup(variant)
    mesh = make_mesh(MESHES[mesh_name])
    key, first = jax.random.key(0, impl="threefry2x32"), jax.device_get(first_state(variant))
    with jax.set_mesh(mesh):
        wanted = abstract_state(model, optimizer, mesh)
        where = jax.tree.map(lambda leaf: leaf.sharding, wanted)
        state = jax.jit(lambda state: state, out_shardings=where)(first)
        lowered = make_step(task, optimizer, schedule, accumulate).lower(state, put(task, 0, mesh), key)
        with collected() as log:
            step = lowered.compile()
        losses, gradient, before = [], {}, arrays(state.model)
        for seed in range(STEPS):
            state, metrics = step(state, put(task, seed, mesh), key)
            losses.append(float(metrics["loss"]))
            gradient = gradient or {name: (before[name] - new) / RATE for name, new in arrays(state.model).items()}
    return Trained(losses, gradient, arrays(state.model), state, wanted, step.as_text() or "", log[0])


def put(task, seed, mesh):
    """A batch on the devices."""
    return jax.device_put(make_batch(task, seed), batch_sharding(mesh))


def arrays(model):
    """The parameters as they are now."""
    return {name: np.asarray(value) for name, value in named_parameters(model).items()}


@pytest.fixture(scope="session")
def trained():
    """`train`, by the names of variant and mesh."""
    return train


@pytest.fixture(scope="session")
def meshes():
    """The meshes by name."""
    return {name: make_mesh(config) for name, config in MESHES.items()}


@pytest.fixture(scope="session")
def standard_error():
    """A context that collects, in a list of one text, what is written to standard error."""
    return collected
