"""What is read from a program is what the program does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from transformer_jax.analysis.program import Collective, collectives, matmul_flops
from transformer_jax.models.decoder_only import llama
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.training.step import abstract_model

eight = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")


def flops(function, *arguments):
    return matmul_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_products_are_counted_in_loops_calls_branches_and_backward_passes():
    x, w = jnp.ones((3, 5, 7)), jnp.ones((7, 7))
    one = 2 * 3 * 5 * 7 * 7
    assert flops(lambda x, w: x @ w, x, w) == one

    def loop(x, w):
        return jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, w), None), x, length=4)[0]

    assert flops(loop, x, w) == 4 * one
    assert flops(jax.grad(lambda w: loop(x, w).sum()), w) == 3 * 4 * one, "the first step needs no gradient of x"
    assert flops(jax.grad(lambda w: jax.checkpoint(loop)(x, w).sum()), w) == 4 * 4 * one
    assert flops(lambda x: jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w), x) == 2 * one


def test_the_count_is_the_compilers_for_an_unrolled_program():
    config = llama(d_model=64, num_heads=4, num_kv_heads=2, d_ff=128, num_layers=3, vocab_size=256, unroll=True)
    tokens = jnp.zeros((4, 64), jnp.int32)

    def loss(model):
        return jnp.mean(jax.nn.logsumexp(model(tokens), axis=-1))

    step = jax.jit(jax.grad(loss))
    model = abstract_model(config)
    analysis = step.lower(model).compile().cost_analysis() or {}
    elementwise = 0.15  # of so small a model
    ours = matmul_flops(step.trace(model).jaxpr.jaxpr)
    assert ours < analysis["flops"] < (1 + elementwise) * ours


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
  %t = (f32[2]{0}, f32[2]{0}, u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1},{1,0}}
  ROOT %w = (s32[], f32[4]) while(%t), condition=%cond.1, body=%body.1
}
"""
    found = collectives(text)
    assert found == {
        Collective("all-gather", 2): (7, 7 * 32 / 2),
        Collective("all-reduce", 4): (1, (12 + 10) * 2 * 3 / 4),
        Collective("reduce-scatter", 4): (1, 40 * 3),
        Collective("collective-permute", 2): (1, 8),
    }
