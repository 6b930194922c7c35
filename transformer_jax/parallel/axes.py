"""Names of array dimensions, and where a mesh puts each of them.

Parameters and activations name their dimensions ("logical axes"); a run names its mesh. The one table between the two
is `MESH_AXES`. Every sharding (parameters, optimizer state, batches, checkpoints) is derived from it.
"""

from collections.abc import Sequence

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

MESH_AXES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "length": (),
    "positions": (),
    "buckets": (),
    "token_types": (),
    "outputs": (),
    "layers": (),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "head_dim": (),
    "embed": ("fsdp",),
}


def partition_spec(axes: Sequence[str], mesh_axes: Sequence[str]) -> PartitionSpec:
    """Where each dimension goes on a mesh with these axes; a mesh axis serves the first dimension that asks for it."""
    free = list(mesh_axes)
    entries = []
    for axis in axes:
        taken = tuple(name for name in MESH_AXES[axis] if name in free)
        free = [name for name in free if name not in taken]
        entries.append(taken[0] if len(taken) == 1 else taken or None)
    return PartitionSpec(*entries)


def sharding(axes: Sequence[str], mesh: Mesh) -> NamedSharding:
    """The sharding of an array whose dimensions have these names."""
    return NamedSharding(mesh, partition_spec(axes, mesh.axis_names))


def constrain(x: Array, axes: Sequence[str]) -> Array:
    """Tells the compiler how an activation lies on the current mesh (`jax.set_mesh`); without a mesh, does nothing."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(axes, mesh.axis_names))
