"""The messages that are read from a compiled program are those that it sends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from transformer_jax.analysis.program import Collective, collectives
from transformer_jax.parallel.mesh import MeshConfig, make_mesh

eight = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")


@eight
def test_messages_in_a_loop_are_counted_each_time():
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    rows, split = NamedSharding(mesh, PartitionSpec("fsdp")), NamedSharding(mesh, PartitionSpec("tensor"))

    @jax.jit
    def function(x, w):
        def body(total, _):
            return total + jax.lax.with_sharding_constraint(jnp.sin(total) @ w, rows), None

        return jax.lax.scan(body, x, length=5)[0].sum()

    x = jax.device_put(np.ones((8, 16), np.float32), rows)
    w = jax.device_put(np.ones((16, 16), np.float32), split)
    found = collectives(function.lower(x, w).compile().as_text() or "")
    # The contracted dimension is split between two devices: each sum of their parts, [2, 16], is one all-reduce.
    inside = found[Collective("all-reduce", 2)]
    assert inside.count >= 5 and inside.sent >= 5 * 2 * 16 * 4


def test_shapes_groups_and_trip_counts_are_read_in_all_their_spellings():
    text = """HloModule m
%body.1 (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %g = f32[8]{0:T(128)} all-gather(%x), replica_groups={{0,1},{2,3}}, dimensions={0}
}
%cond.1 (p: (s32[], f32[4])) -> pred[] {
  %c = s32[]{:T(128)} constant(7)
}
ENTRY %main (p: f32[4]) -> f32[4] {
  %r = (f32[3]{0:T(128)}, bf16[5]{0}) all-reduce(%a, %b), replica_groups=mesh['x'=4,'y'=2] {'x'}, to_apply=%add
  %s = f32[10]{0} reduce-scatter(%a), replica_groups=[2,4]<=[8], to_apply=%add
  %d = f32[10]{0} all-reduce-done(%r)
  %n = f32[10]{0} all-reduce(%a), replica_groups={{0},{1}}, to_apply=%add
  %o = f32[6]{0} all-gather(%a), replica_groups=mesh['x'=3,'y'=2], device_ids=([2,3]T(1,0)) {'x','y'}, dimensions={0}
  %t = (f32[2]{0}, f32[2]{0}, u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1},{1,0}}
  ROOT %w = (s32[], f32[4]) while(%t), condition=%cond.1, body=%body.1
}
"""
    found = collectives(text)
    assert found == {
        Collective("all-gather", 2): (7, 7 * 32 / 2),
        Collective("all-gather", 6): (1, 24 * 5 / 6),
        Collective("all-reduce", 4): (1, (12 + 10) * 2 * 3 / 4),
        Collective("reduce-scatter", 4): (1, 40 * 3),
        Collective("collective-permute", 2): (1, 8),
    }


def test_a_message_that_is_spread_over_computations_is_one():
    text = """HloModule m
%fused.1 (p: f32[4]) -> f32[8] {
  %g = f32[8]{0} all-gather(%p), channel_id=9, replica_groups={{0,1}}, dimensions={0}
}
%async_collective_fusion.2 (p: f32[4]) -> f32[8] {
  %h = f32[8]{0} all-gather(%p), channel_id=9, replica_groups={{0,1}}, dimensions={0}
}
%body (p: f32[4]) -> f32[4] {
  %w = f32[4]{0} fusion(%p), kind=kCustom, calls=%async_collective_fusion.2
}
%twice (p: f32[4]) -> f32[4] {
  %r = f32[4]{0} all-reduce(%p), channel_id=2, replica_groups={{0,1}}, to_apply=%add
}
%all-reduce-scatter.3 (p: f32[4]) -> f32[2] {
  %r = f32[4]{0} all-reduce(%p), channel_id=3, replica_groups={{0,1}}, to_apply=%add
}
ENTRY %main (p: f32[4]) -> f32[4] {
  %async-collective-start = f32[4]{0} fusion(%p), kind=kCustom, calls=%fused.1
  %l = f32[4]{0} while(%a), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"12"}}
  %async-collective-done.1 = f32[4]{0} fusion(%p), kind=kCustom, calls=%fused.1
  %s = f32[2]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.3
  %b = f32[4]{0} call(%l), to_apply=%twice
  ROOT %d = f32[4]{0} call(%b), to_apply=%twice
}
"""
    assert collectives(text) == {
        Collective("all-gather", 2): (1, 16),
        Collective("all-reduce", 2): (2, 32),
        Collective("reduce-scatter", 2): (1, 8),
    }
