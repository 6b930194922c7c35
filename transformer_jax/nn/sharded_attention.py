"""Attention sharded by rows and heads, each device attending over whole texts.

Where devices divide the length of texts (`mesh.sequence`), one exchange gives each of them whole texts of some heads,
and another takes the result back (Jacobs et al. 2023, "DeepSpeed Ulysses", section 3.1). What cannot be done so is left
to the compiler, with keys and values gathered (Llama Team 2024, "The Llama 3 Herd of Models", section 3.3.2).
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from transformer_jax.nn.mask import AttentionMask
from transformer_jax.parallel.axes import MESH_AXES, num_shards, partition_spec

Queries = Float[Array, "batch query heads head_dim"]
Keys = Float[Array, "batch key kv_heads head_dim"]


def why_not_by_shard(query: Queries, key: Keys) -> str:
    """The reason why rows and heads cannot be sharded over the current mesh; empty: they can."""
    rows, lengths = num_shards("batch"), num_shards("length")
    heads = num_shards("heads") * lengths
    if query.shape[0] % rows:
        return f"{query.shape[0]} rows on {rows} devices"
    if query.shape[2] % heads or key.shape[2] % heads:
        return f"{query.shape[2]} heads and {key.shape[2]} of keys on {heads} devices"
    if query.shape[1] % lengths or key.shape[1] % lengths:
        return f"lengths {query.shape[1]} and {key.shape[1]} on {lengths} devices"
    return ""


def attend_by_shard(
    attend: Callable[[Array, Array, Array, AttentionMask], Array],
    query: Queries,
    key: Keys,
    value: Keys,
    mask: AttentionMask,
) -> Queries:
    """Calls `attend` on every device with its rows and heads of query, key, value and mask."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attend(query, key, value, mask)

    def on_a_device(query: Array, key: Array, value: Array, mask: AttentionMask) -> Array:
        if num_shards("length") == 1:
            return attend(query, key, value, mask)
        query, key, value = (_exchange(x, split=2, join=1) for x in (query, key, value))
        return _exchange(attend(query, key, value, mask), split=1, join=2)

    heads = partition_spec(("batch", "length", "heads", "head_dim"), mesh.axis_names)
    rows = partition_spec(("batch",), mesh.axis_names)
    specs = (heads, heads, heads, rows)
    return jax.shard_map(on_a_device, mesh=mesh, in_specs=specs, out_specs=heads, check_vma=False)(
        query, key, value, mask
    )


def _exchange(x: Array, *, split: int, join: int) -> Array:
    return jax.lax.all_to_all(x, MESH_AXES["length"], split, join, tiled=True)
