"""The mesh of a run: the devices that shard the batch, the parameters and the layers' width."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; their product is the number of devices used."""

    data: int = -1
    """Devices that shard the batch and replicate the parameters; -1: all that the other axes leave."""
    fsdp: int = 1
    """Devices that shard the batch and the parameters (fully sharded data parallel)."""
    tensor: int = 1
    """Devices that shard heads, feed-forward width and vocabulary (tensor parallel)."""
    sequence: int = 1
    """Devices that shard the length of texts, for contexts that are too long for one."""


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges these devices, by default all, in a mesh; raises ValueError if the sizes do not fit their number.

    TPU slices, which a slower network connects, lie along the axis `data`.
    """
    sizes, devices = asdict(config), jax.devices() if devices is None else devices
    wrong = {axis: size for axis, size in sizes.items() if size < 1 and size != -1}
    inferred = [axis for axis, size in sizes.items() if size == -1]
    if wrong or len(inferred) > 1:
        raise ValueError(f"mesh sizes are positive, with at most one -1, not {sizes}")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if inferred:
        sizes[inferred[0]] = max(len(devices) // fixed, 1)
    total, most = math.prod(sizes.values()), len(devices)
    if total > most or (inferred and most % fixed):
        named = " x ".join(f"mesh.{axis} {size}" for axis, size in asdict(config).items() if size > 1)
        good = [str(number) for number in range(1, most + 1) if most % number == 0]
        raise ValueError(f"{named} does not fit {most} devices; the product can be {', '.join(good)}")
    if len({device.process_index for device in devices[:total]}) < len({device.process_index for device in devices}):
        raise ValueError(f"the mesh {sizes} leaves processes without a device; make it as large as all {most}")
    shape, devices, axis_types = tuple(sizes.values()), devices[:total], (AxisType.Auto,) * len(sizes)
    slices = Counter(getattr(device, "slice_index", 0) for device in devices)
    if len(slices) == 1:
        return jax.make_mesh(shape, tuple(sizes), axis_types=axis_types, devices=devices)
    if len(set(slices.values())) > 1:
        raise ValueError(f"the mesh {sizes} takes {[*slices.values()]} devices of the slices; take as many of each")
    if sizes["data"] % len(slices):
        problem = f"mesh.data {sizes['data']} is not a multiple of {len(slices)}, the number of slices"
        raise ValueError(f"{problem}: no other axis may cross the slower network between them")
    # Only the first axis crosses the network between slices.
    outer, inner = (len(slices),) + (1,) * (len(shape) - 1), (shape[0] // len(slices), *shape[1:])
    arranged = mesh_utils.create_hybrid_device_mesh(inner, outer, devices=devices)
    return Mesh(arranged, tuple(sizes), axis_types=axis_types)


def local_mesh(config: MeshConfig) -> Mesh:
    """A mesh of all devices of this process, with sharded parameters if `config` shards them, otherwise replicated."""
    sharded = config.fsdp != 1 or config.tensor != 1
    return make_mesh(MeshConfig(data=1, fsdp=-1) if sharded else MeshConfig(), jax.local_devices())


def described(mesh: Mesh | Mapping[str, int]) -> str:
    """Names the axes with several devices, such as `data 4 x fsdp 2`."""
    shape = mesh.shape if isinstance(mesh, Mesh) else mesh
    return " x ".join(f"{axis} {size}" for axis, size in shape.items() if size > 1) or "one device"
