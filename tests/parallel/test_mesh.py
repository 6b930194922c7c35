"""The mesh changes where numbers lie, never what they are."""

import jax
import numpy as np
import pytest

from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.parameters import named_parameters, parameter_axes
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.translation import Translation
from transformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from transformer_jax.training.step import abstract_model, abstract_state, batch_sharding, init_state, make_step

pytestmark = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")

CONFIG = EncoderDecoderConfig(
    d_model=16, num_heads=8, d_ff=32, num_layers=2, dropout=0.1, vocab_size=24, source_vocab_size=24
)
MESHES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "data, fsdp and tensor": MeshConfig(data=2, fsdp=2, tensor=2),
    "data and sequence": MeshConfig(data=2, sequence=4),
    "fsdp and sequence": MeshConfig(data=1, fsdp=4, sequence=2),
}
STEPS = 5


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (8, 1, 1, 1)),
        (MeshConfig(fsdp=4), (2, 4, 1, 1)),
        (MeshConfig(tensor=2), (4, 1, 2, 1)),
        (MeshConfig(data=1, fsdp=-1, tensor=2), (1, 4, 2, 1)),
        (MeshConfig(data=2, fsdp=2, tensor=-1), (2, 2, 2, 1)),
        (MeshConfig(data=2), (2, 1, 1, 1)),
        (MeshConfig(data=2, sequence=-1), (2, 1, 1, 4)),
    ],
)
def test_minus_one_is_what_the_other_axes_leave(config, shape):
    mesh = make_mesh(config)
    assert (mesh.axis_names, mesh.devices.shape) == (("data", "fsdp", "tensor", "sequence"), shape)


@pytest.mark.parametrize(
    "config",
    [
        MeshConfig(data=16),
        MeshConfig(data=4, tensor=4),
        MeshConfig(fsdp=3),
        MeshConfig(tensor=16),
        MeshConfig(data=0),
        MeshConfig(data=-2),
        MeshConfig(data=-1, fsdp=-1),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_line_that_shows_them(config):
    with pytest.raises(ValueError, match=f"'data': .*'fsdp': .*'tensor': {config.tensor}") as error:
        make_mesh(config)
    assert "\n" not in str(error.value)


def test_a_mesh_that_needs_too_many_devices_says_how_many_there_are():
    with pytest.raises(ValueError, match="8 devices"):
        make_mesh(MeshConfig(data=4, tensor=4))


def make_batch(seed, rows=16, length=9):
    rng = np.random.default_rng(seed)
    batch = {name: rng.integers(4, 24, (rows, length), dtype=np.int32) for name in ("source", "target")}
    return batch | {f"{name}_length": rng.integers(2, length + 1, rows, dtype=np.int32) for name in list(batch)}


def train(mesh_config):
    """Metrics of every step and the last state, with the placements that a run uses."""
    mesh = make_mesh(mesh_config)
    config = OptimizerConfig(schedule="constant", learning_rate=1e-3, warmup_steps=1)
    schedule = make_schedule(config, CONFIG.d_model, STEPS)
    optimizer = make_optimizer(config, parameter_axes(abstract_model(CONFIG)), schedule)
    key = jax.random.key(0, impl="threefry2x32")
    rows = []
    with jax.set_mesh(mesh):
        expected = abstract_state(CONFIG, optimizer, mesh)
        state = init_state(CONFIG, optimizer, 0, mesh)
        step = make_step(Translation(), optimizer, schedule)
        for seed in range(STEPS):
            state, metrics = step(state, jax.device_put(make_batch(seed), batch_sharding(mesh)), key)
            rows.append({name: float(value) for name, value in metrics.items()})
    return rows, state, expected


@pytest.fixture(scope="module")
def one_device():
    return train(MeshConfig(data=1))


@pytest.fixture(scope="module", params=MESHES.values(), ids=list(MESHES))
def eight_devices(request):
    return train(request.param)


@pytest.fixture(scope="module")
def fully_sharded():
    return train(MESHES["fsdp"])


def test_eight_devices_learn_what_one_device_learns(one_device, eight_devices):
    losses, expected = ([row["loss"] for row in rows] for rows, *_ in (eight_devices, one_device))
    assert len(set(expected)) == STEPS
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_the_first_gradient_is_the_same_on_every_mesh(one_device, eight_devices):
    norm, expected = (rows[0]["gradient_norm"] for rows, *_ in (eight_devices, one_device))
    np.testing.assert_allclose(norm, expected, rtol=1e-5)


def test_a_step_leaves_every_array_where_it_lay(eight_devices):
    _, state, expected = eight_devices
    for (path, leaf), wanted in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(expected), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert leaf.shape == wanted.shape, name
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim), f"{name}: {leaf.sharding}"


def test_fully_sharded_parameters_and_moments_are_an_eighth_on_every_device(fully_sharded):
    _, state, _ = fully_sharded
    axes, parameters = parameter_axes(state.model), named_parameters(state.model)
    adam = next(part for part in state.optimizer if hasattr(part, "mu"))
    for name, of in axes.items():
        # Biases of the feed-forward's inner layer have no axis that fsdp splits.
        parts = 8 if "embed" in of else 1
        for array in (parameters[name], adam.mu[name], adam.nu[name]):
            sizes = {shard.data.size for shard in array.addressable_shards}
            assert sizes == {array.size // parts}, name


def test_fully_sharded_state_takes_less_than_a_sixth_of_the_memory(one_device, fully_sharded):
    def on_first_device(state):
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))

    assert on_first_device(fully_sharded[1]) < on_first_device(one_device[1]) / 6
