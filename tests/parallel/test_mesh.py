"""Which devices a mesh has, and what each of them holds."""

import importlib.util

import jax
import numpy as np
import pytest
from jax.experimental import topologies

from transformer_jax.analysis.plan import LIBTPU
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
    wrong = "does not fit 8 devices; the product can be 1, 2, 4, 8|mesh sizes are positive, with at most one -1, not"
    with pytest.raises(ValueError, match=wrong) as error:
        make_mesh(config)
    assert "\n" not in str(error.value)


def test_a_mesh_that_needs_too_many_devices_says_how_many_there_are():
    with pytest.raises(ValueError, match="8 devices"):
        make_mesh(MeshConfig(data=4, tensor=4))


@pytest.fixture(scope="module")
def fully_sharded():
    """The state after one step of Adam, and the shapes and shardings that it should have."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    config = OptimizerConfig(schedule="constant", learning_rate=1e-3, warmup_steps=1)
    schedule = make_schedule(config, CONFIG.d_model, 1)
    optimizer = make_optimizer(config, parameter_axes(abstract_model(CONFIG)), schedule)
    batch = {name: np.full((8, 9), 5, np.int32) for name in ("source", "target")}
    batch |= {f"{name}_length": np.full(8, 9, np.int32) for name in list(batch)}
    with jax.set_mesh(mesh):
        state = init_state(CONFIG, optimizer, 0, mesh)
        step = make_step(Translation(), optimizer, schedule)
        state, _ = step(state, jax.device_put(batch, batch_sharding(mesh)), jax.random.key(0))
        return state, abstract_state(CONFIG, optimizer, mesh)


def test_a_step_leaves_what_the_optimizer_keeps_where_it_lay(fully_sharded):
    state, expected = fully_sharded
    for (path, leaf), wanted in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(expected), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert leaf.shape == wanted.shape, name
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim), f"{name}: {leaf.sharding}"


def test_fully_sharded_parameters_and_moments_are_an_eighth_on_every_device(fully_sharded):
    state, _ = fully_sharded
    axes, parameters = parameter_axes(state.model), named_parameters(state.model)
    adam = next(part for part in state.optimizer if hasattr(part, "mu"))
    for name, of in axes.items():
        # Biases of the feed-forward's inner layer have no axis that fsdp splits.
        parts = 8 if "embed" in of else 1
        for array in (parameters[name], adam.mu[name], adam.nu[name]):
            sizes = {shard.data.size for shard in array.addressable_shards}
            assert sizes == {array.size // parts}, name


def test_fully_sharded_state_takes_less_than_a_sixth_of_the_memory(fully_sharded):
    leaves = jax.tree.leaves(fully_sharded[0])
    assert sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves) < sum(leaf.nbytes for leaf in leaves) / 6


class Chip:
    """What the layout of a mesh asks of a device of a TPU slice."""

    platform = device_kind = "cpu"

    def __init__(self, number, slice_index):
        self.id, self.slice_index, self.process_index = number, slice_index, number // 4

    def __repr__(self):
        return f"{self.slice_index}:{self.id}"


CHIPS = [Chip(number, number % 2) for number in range(8)]


@pytest.mark.parametrize(
    "config", [MeshConfig(), MeshConfig(tensor=2), MeshConfig(data=2, fsdp=-1), MeshConfig(data=2, fsdp=2, sequence=2)]
)
def test_only_data_crosses_the_network_between_slices(config):
    devices = make_mesh(config, CHIPS).devices
    assert {chip.id for chip in devices.flat} == set(range(8))
    half = len(devices) // 2
    assert {chip.slice_index for chip in devices[:half].flat} == {0}
    assert {chip.slice_index for chip in devices[half:].flat} == {1}


def test_a_mesh_whose_data_is_no_multiple_of_the_slices_is_refused():
    with pytest.raises(ValueError, match="mesh.data 1 is not a multiple of 2, the number of slices"):
        make_mesh(MeshConfig(data=1, fsdp=8), CHIPS)


def test_a_mesh_with_part_of_a_slice_is_refused():
    chips = sorted(CHIPS, key=lambda chip: chip.slice_index)
    with pytest.raises(ValueError, match=r"takes \[4, 2\] devices of the slices"):
        make_mesh(MeshConfig(data=2, fsdp=3), chips)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, which the extra tpu installs")
def test_slices_of_real_tpus_divide_the_batch(monkeypatch):
    for variable, value in LIBTPU.items():
        monkeypatch.setenv(variable, value)
    chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2", num_slices=2).devices
    devices = make_mesh(MeshConfig(data=-1, tensor=2), chips).devices
    assert [{chip.slice_index for chip in row.flat} for row in devices] == [{0}, {0}, {1}, {1}]
