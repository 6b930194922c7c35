"""Products are counted as a compiler counts them, and speed is theirs."""

import time
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files
from transformer_jax.models.decoder_only import gpt2, llama
from transformer_jax.nn.attention import dot_product_attention
from transformer_jax.nn.mask import AttentionMask
from transformer_jax.parallel import chips
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.language_modelling import LanguageModelling
from transformer_jax.training.experiment import Experiment
from transformer_jax.training.flops import matmul_flops
from transformer_jax.training.step import abstract_model, fresh_state, make_update
from transformer_jax.training.throughput import STATM, Throughput, memory


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
    config = llama(d_model=256, num_heads=4, num_kv_heads=2, d_ff=1024, num_layers=2, vocab_size=1024, unroll=True)
    tokens = jnp.zeros((4, 64), jnp.int32)

    def loss(model):
        return jnp.mean(jax.nn.logsumexp(model(tokens), axis=-1))

    step = jax.jit(jax.grad(loss))
    model = abstract_model(config)
    analysis = step.lower(model).compile().cost_analysis() or {}
    ours = matmul_flops(step.trace(model).jaxpr.jaxpr)
    assert ours < analysis["flops"] < 1.02 * ours


def test_fused_attention_counts_as_the_plain_formula_on_any_number_of_devices():
    x = jnp.zeros((2, 256, 4, 16))

    def attend(kernel):
        return lambda x: dot_product_attention(x, x, x, AttentionMask(causal=True), kernel=kernel)

    expected = 2 * 2 * 2 * 4 * 256 * 256 * 16
    assert flops(attend("xla"), x) == flops(attend("splash"), x) == expected
    with jax.set_mesh(make_mesh(MeshConfig(data=2, tensor=2))):
        assert flops(attend("splash"), x) == expected


@pytest.mark.parametrize("more", [{}, {"remat": True}, {"attention_kernel": "splash"}])
def test_what_a_model_needs_leaves_out_what_is_computed_again(more):
    """Long enough for scores, and with words enough for logits, to be computed again in the backward pass."""
    length, layers, width, inner, words = 512, 2, 64, 128, 16_384
    model = gpt2(d_model=width, num_heads=4, d_ff=inner, num_layers=layers, vocab_size=words, dropout=0.0, **more)
    data = DataConfig(source=Files(), max_length=length, batch_multiple=2)
    experiment = Experiment(task=LanguageModelling(), data=data, model=replace(model, attention_dropout=0.0))
    update = make_update(experiment)
    state = jax.eval_shape(lambda: fresh_state(experiment.model, update.optimizer, 0))
    batch, key = experiment.task.abstract_batch(2, length), jax.eval_shape(lambda: jax.random.key(0))
    weights = layers * (4 * width**2 + 2 * width * inner) + words * width
    expected = 2 * length * (6 * weights + 12 * layers * length * width)
    assert update.model_flops(state, batch, key) == pytest.approx(expected, rel=0.005)
    assert matmul_flops(update.step.trace(state, batch, key).jaxpr.jaxpr) > 1.1 * expected


def test_speed_and_use_of_a_known_chip_leave_pauses_out(monkeypatch):
    devices = jax.devices()[:2]
    peak = 1e6
    chip = replace(chips.CHIPS["v5e"], kinds=(devices[0].device_kind,), float32_flops=peak)
    monkeypatch.setitem(chips.CHIPS, "here", chip)
    clock = iter([0.0, 10.0, 110.0, 110.0, 120.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    throughput = Throughput(devices)
    batch = {"x": jnp.ones((8, 3))}
    for _ in range(5):
        throughput.add(lambda state, batch, key: 2.0 * 4 * batch["x"].size, None, batch, None)
    throughput.tokens += 200
    throughput.pause()  # after 10 seconds
    throughput.resume()  # 100 seconds later
    found = throughput.lap()
    assert found["tokens_per_second"] == 20
    assert found["mfu"] == pytest.approx(5 * 2 * 4 * 8 * 3 / 10 / (2 * peak))
    assert found["peak_memory"] > 2**20
    assert throughput.lap()["mfu"] == 0


@pytest.mark.skipif(not STATM.exists(), reason="what a process holds now is read on Linux alone")
def test_memory_falls_when_arrays_are_freed_and_its_peak_stays():
    devices = [SimpleNamespace(process_index=0, memory_stats=lambda: None)]
    large = np.ones(2**25)
    held = memory(devices)
    del large
    freed = memory(devices)
    assert held["memory"] - freed["memory"] > 2**27
    assert freed["peak_memory"] - freed["memory"] > 2**27


def test_memory_is_that_of_the_fullest_device():
    stats = ({"bytes_in_use": 5, "peak_bytes_in_use": 9}, {"bytes_in_use": 7, "peak_bytes_in_use": 8})
    devices = [SimpleNamespace(process_index=0, memory_stats=lambda stat=stat: stat) for stat in stats]
    assert memory(devices) == {"memory": 7, "peak_memory": 9}


def test_an_unknown_chip_has_no_share_of_its_peak():
    throughput = Throughput(jax.devices()[:1])
    throughput.add(lambda *_: 1.0, None, {}, None)
    assert "mfu" not in throughput.lap()
