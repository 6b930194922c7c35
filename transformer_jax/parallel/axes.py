"""Names of array dimensions, and the mesh axes that shard each of them.

Parameters and activations name their dimensions ("logical axes"); a run names its mesh. The one table between the two
is `MESH_AXES`. Every sharding (parameters, optimizer state, batches, checkpoints) is derived from it.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

MESH_AXES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "length": ("sequence",),
    "replicated": (),
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
    """The mesh axes that shard each dimension; a mesh axis shards only the first dimension that asks for it.

    Raises ValueError for a name that is not in `MESH_AXES`.
    """
    free = list(mesh_axes)
    entries = []
    for axis in axes:
        if axis not in MESH_AXES:
            raise ValueError(f"no axis of arrays is called {axis!r}; there are {', '.join(MESH_AXES)}")
        taken = tuple(name for name in MESH_AXES[axis] if name in free)
        free = [name for name in free if name not in taken]
        entries.append(taken[0] if len(taken) == 1 else taken or None)
    return PartitionSpec(*entries)


def sharding(axes: Sequence[str], mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding of an array whose dimensions have these names."""
    return NamedSharding(mesh, partition_spec(axes, mesh.axis_names))


def check_divides(name: str, shape: Sequence[int], axes: Sequence[str], where: NamedSharding) -> None:
    """Raises ValueError, with the sizes that would do, if the mesh does not divide a dimension of a parameter."""
    for axis, size, split in zip(axes, shape, where.spec, strict=True):
        names = (split,) if isinstance(split, str) else tuple(split or ())
        devices = math.prod(where.mesh.shape[mesh_axis] for mesh_axis in names)
        if names and size % devices:
            good = [str(number) for number in range(1, size + 1) if size % number == 0]
            listed = ", ".join(good if len(good) <= 12 else [*good[:12], "..."])
            raise ValueError(f"mesh.{names[0]} {devices} does not divide {axis} of {name}, {size}; it can be {listed}")


def constrain(x: Array, axes: Sequence[str]) -> Array:
    """Tells the compiler how an activation is sharded on the current mesh (`jax.set_mesh`); without one, does nothing.

    A dimension that the devices do not divide, such as the length of one more token, is replicated.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    axes = ["replicated" if size % parts(axis, mesh) else axis for axis, size in zip(axes, x.shape, strict=True)]
    return jax.lax.with_sharding_constraint(x, partition_spec(axes, mesh.axis_names))


def take_rows(array: Array, rows: Array, *, axis: int) -> Array:
    """The array whose row i of the batch, along `axis`, is row `rows[i]` of this one; each lies on the same device.

    So it is in a search, where hypotheses move within their sentence: told of it, the compiler need not gather all rows
    on every device.
    """
    mesh, number = jax.sharding.get_abstract_mesh(), devices_of("batch")
    if number == 1 or array.shape[axis] % number or rows.shape[0] % number:
        return jnp.take(array, rows, axis=axis)
    names = tuple(name for name in MESH_AXES["batch"] if name in mesh.axis_names)
    where = PartitionSpec(*[None] * axis, names)

    def take(part: Array, rows: Array) -> Array:
        return jnp.take(part, rows - jax.lax.axis_index(names) * part.shape[axis], axis=axis)

    sharded = jax.shard_map(
        take, mesh=mesh, in_specs=(where, PartitionSpec(names)), out_specs=where, axis_names={*names}
    )
    return sharded(array, rows)


def parts(axis: str, mesh: Mesh | AbstractMesh) -> int:
    """The number of shards that a mesh makes of a dimension with this name."""
    return math.prod(mesh.shape.get(name, 1) for name in MESH_AXES[axis])


def devices_of(axis: str) -> int:
    """The number of shards that the current mesh makes of a dimension with this name; 1 without a mesh."""
    return parts(axis, jax.sharding.get_abstract_mesh())
