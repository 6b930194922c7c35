"""Names of array dimensions, and the mesh axes that shard each of them.

Parameters and activations name their dimensions ("logical axes"), a run names its mesh, and `MESH_AXES` maps one to the
other. Every sharding (parameters, optimizer state, batches, checkpoints) is derived from that table.
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
    "embed": ("fsdp",),
    **dict.fromkeys(("vocab", "heads", "mlp"), ("tensor",)),
    **dict.fromkeys(("head_dim", "layers", "positions", "buckets", "token_types", "outputs", "replicated"), ()),
}


def partition_spec(axes: Sequence[str], mesh_axes: Sequence[str]) -> PartitionSpec:
    """The mesh axes that shard each dimension; a mesh axis shards only the first dimension that asks for it.

    Raises ValueError for a name that is not in `MESH_AXES`.
    """
    free = list(mesh_axes)
    entries = []
    for axis in axes:
        if axis not in MESH_AXES:
            known = ", ".join(MESH_AXES)
            raise ValueError(f"unknown axis {axis!r}; known: {known} (replicated for one that is never sharded)")
        taken = tuple(name for name in MESH_AXES[axis] if name in free)
        free = [name for name in free if name not in taken]
        entries.append(taken[0] if len(taken) == 1 else taken or None)
    return PartitionSpec(*entries)


def sharding(axes: Sequence[str], mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding of an array whose dimensions have these names.

    Mesh axes of size 1 are left out: with them one array has several specs, and a program is compiled for each.
    """
    return NamedSharding(mesh, partition_spec(axes, [name for name in mesh.axis_names if mesh.shape[name] > 1]))


def check_divides(name: str, shape: Sequence[int], axes: Sequence[str], where: NamedSharding) -> None:
    """Raises ValueError, with the possible sizes, if the mesh does not divide a dimension of a parameter."""
    for axis, size, split in zip(axes, shape, where.spec, strict=True):
        names = (split,) if isinstance(split, str) else tuple(split or ())
        devices = math.prod(where.mesh.shape[mesh_axis] for mesh_axis in names)
        if names and size % devices:
            good = [str(number) for number in range(1, size + 1) if size % number == 0]
            some = ", ".join(good if len(good) <= 12 else [*good[:12], "..."])
            raise ValueError(f"mesh.{names[0]} {devices} does not divide {axis} of {name}, {size}; it can be {some}")


def constrain(x: Array, axes: Sequence[str]) -> Array:
    """Tells the compiler how an activation is sharded on the current mesh (`jax.set_mesh`); without one, does nothing.

    A dimension that the devices do not divide, such as the length of one more token, is replicated.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    axes = ["replicated" if size % num_shards(axis, mesh) else axis for axis, size in zip(axes, x.shape, strict=True)]
    return jax.lax.with_sharding_constraint(x, partition_spec(axes, mesh.axis_names))


def take_rows(array: Array, rows: Array, *, axis: int) -> Array:
    """Takes `rows` of the batch along `axis`, each of which must be on the device that gets it.

    So it is in a search, whose hypotheses move within their sentence: no device need gather all rows.
    """
    mesh, number = jax.sharding.get_abstract_mesh(), num_shards("batch")
    if number == 1 or array.shape[axis] % number or rows.shape[0] % number:
        return jnp.take(array, rows, axis=axis)
    names = tuple(name for name in MESH_AXES["batch"] if name in mesh.axis_names)
    where = PartitionSpec(*[None] * axis, names)

    def take(part: Array, rows: Array) -> Array:
        return jnp.take(part, rows - jax.lax.axis_index(names) * part.shape[axis], axis=axis)

    specs = {"in_specs": (where, PartitionSpec(names)), "out_specs": where}
    return jax.shard_map(take, mesh=mesh, axis_names={*names}, **specs)(array, rows)


def num_shards(axis: str, mesh: Mesh | AbstractMesh | None = None) -> int:
    """The number of shards of a dimension with this name on a mesh, by default the current one; 1 without any."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    return math.prod(mesh.shape.get(name, 1) for name in MESH_AXES[axis])
