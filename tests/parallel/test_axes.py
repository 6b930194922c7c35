"""One table between the names of dimensions and the mesh."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.parameters import parameter_axes
from transformer_jax.nn.positions import Learned
from transformer_jax.parallel.axes import MESH_AXES, constrain, partition_spec, sharding
from transformer_jax.parallel.mesh import MeshConfig, make_mesh

ALL = ("data", "fsdp", "tensor")


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (("embed", "mlp"), ("fsdp", "tensor")),
        (("layers", "embed", "heads", "head_dim"), (None, "fsdp", "tensor", None)),
        (("layers", "mlp", "embed"), (None, "tensor", "fsdp")),
        (("vocab", "embed"), ("tensor", "fsdp")),
        (("batch", "length"), (("data", "fsdp"), None)),
        ((), ()),
    ],
)
def test_dimensions_go_where_the_table_says(axes, expected):
    assert partition_spec(axes, ALL) == PartitionSpec(*expected)


def test_a_mesh_axis_serves_the_first_dimension_that_asks_for_it():
    assert partition_spec(("batch", "length", "embed"), ALL) == PartitionSpec(("data", "fsdp"), None, None)
    assert partition_spec(("embed", "batch"), ALL) == PartitionSpec("fsdp", "data")
    assert partition_spec(("heads", "mlp"), ALL) == PartitionSpec("tensor", None)


def test_mesh_axes_that_a_mesh_lacks_are_left_out():
    assert partition_spec(("batch", "vocab", "embed"), ("data",)) == PartitionSpec("data", None, None)
    assert partition_spec(("batch", "embed"), ()) == PartitionSpec(None, None)


def test_an_axis_that_is_not_in_the_table_is_refused():
    with pytest.raises(ValueError, match="unknown axis 'embedding'; known: batch, length"):
        partition_spec(("embedding",), ALL)


@pytest.mark.parametrize("changes", [{}, {"gated": True, "attention_bias": True}, {"positions": Learned()}])
def test_the_table_knows_every_axis_of_a_models_parameters(changes):
    config = EncoderDecoderConfig(d_model=16, num_heads=2, d_ff=32, num_layers=2, vocab_size=24, **changes)
    model = jax.eval_shape(lambda: config.build(0))
    assert {axis for of in parameter_axes(model).values() for axis in of} <= MESH_AXES.keys()


def test_constrain_does_nothing_without_a_mesh():
    x = jnp.ones((8, 4))
    assert constrain(x, ("batch", "embed")) is x
    assert "sharding" not in str(jax.make_jaxpr(lambda x: constrain(x, ("batch", "embed")))(x))


def test_constrain_does_nothing_on_one_device():
    x = jnp.ones((8, 4))
    with jax.set_mesh(make_mesh(MeshConfig(data=1))):
        assert constrain(x, ("batch", "embed")) is x


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")
def test_constrain_on_a_mesh_lays_an_activation_as_the_table_says():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    axes = ("batch", "length", "vocab")
    with jax.set_mesh(mesh):
        y = jax.jit(lambda: constrain(jnp.zeros((8, 3, 4)), axes))()
    assert y.sharding.is_equivalent_to(sharding(axes, mesh), 3)
    assert y.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor")), 3)
    assert y.addressable_shards[0].data.shape == (2, 3, 2)


def test_mesh_axes_of_one_device_are_in_no_sharding():
    names = ("data", "fsdp", "tensor")
    mesh = jax.make_mesh((2, 1, 1), names, devices=jax.devices()[:2])
    assert sharding(("batch", "embed", "heads"), mesh).spec == PartitionSpec("data", None, None)
    one = jax.make_mesh((1, 1, 1), names, devices=jax.devices()[:1])
    assert sharding(("embed", "heads"), one).spec == PartitionSpec(None, None)
