"""Fused attention against the plain formula, forward and backward; splash is interpreted where there is no TPU."""

import logging
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.nn import kernels
from transformer_jax.nn.attention import dot_product_attention
from transformer_jax.nn.kernels import _say, choose_kernel
from transformer_jax.nn.mask import AttentionMask
from transformer_jax.parallel.mesh import MeshConfig, make_mesh

LENGTHS = jnp.array([256, 100], jnp.int32)
SEGMENTS = jnp.asarray(np.repeat([[1, 2, 3], [1, 2, 2]], [90, 100, 66], axis=1), jnp.int32)
CASES = {
    "everything": AttentionMask(),
    "causal": AttentionMask(causal=True),
    "padded": AttentionMask(key_lengths=LENGTHS),
    "causal and padded": AttentionMask(causal=True, key_lengths=LENGTHS),
    "causal window": AttentionMask(causal=True, window=(40, 40)),
    "window to both sides": AttentionMask(window=(40, 40), key_lengths=LENGTHS),
    "packed": AttentionMask(causal=True, query_segments=SEGMENTS, key_segments=SEGMENTS),
}


def arrays(dtype="float32", keys=256, heads=4, kv_heads=2, head_dim=16):
    rng = np.random.default_rng(0)
    shapes = [(2, 256, heads, head_dim), (2, keys, kv_heads, head_dim), (2, keys, kv_heads, head_dim)]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def value_and_gradients(kernel, inputs, mask, soft_cap=0.0):
    weight = jnp.asarray(np.random.default_rng(1).normal(size=inputs[0].shape), jnp.float32)
    weight = weight.at[1, LENGTHS[1] :].set(0)  # outputs at padding are unspecified

    @jax.jit
    def run(inputs, mask):
        def loss(query, key, value):
            out = dot_product_attention(query, key, value, mask, soft_cap=soft_cap, kernel=kernel)
            return jnp.sum(weight * out.astype(jnp.float32)), jnp.where(weight == 0, 0, out)

        gradients, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*inputs)
        return out, *gradients

    return run(inputs, mask)


def assert_close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        np.testing.assert_allclose(one, other, atol=tolerance * np.abs(other).max())


@pytest.mark.parametrize(
    ("case", "soft_cap"),
    [*((case, 0.0) for case in ("causal and padded", "packed", "window to both sides")), ("causal window", 5.0)],
)
def test_splash_equals_the_plain_formula(case, soft_cap):
    inputs = arrays()
    expected = value_and_gradients("xla", inputs, CASES[case], soft_cap)
    assert_close(value_and_gradients("splash", inputs, CASES[case], soft_cap), expected, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_splash_equals_the_plain_formula_for_every_mask(case):
    inputs = arrays()
    assert_close(
        value_and_gradients("splash", inputs, CASES[case]), value_and_gradients("xla", inputs, CASES[case]), 1e-5
    )


def test_splash_attends_to_a_memory_of_another_length_without_anything_to_see():
    query, key, value = arrays(keys=128)
    mask = AttentionMask(key_lengths=jnp.array([70, 0], jnp.int32))
    out = jax.jit(partial(dot_product_attention, kernel="splash"))(query, key, value, mask)
    expected = dot_product_attention(query[:1], key[:1, :70], value[:1, :70], AttentionMask(), kernel="xla")
    np.testing.assert_allclose(out[:1], expected, atol=1e-5)
    assert jnp.isfinite(out).all()
    of_value = jax.grad(lambda value: jnp.sum(dot_product_attention(query, key, value, mask, kernel="splash")))(value)
    np.testing.assert_array_equal(of_value[1], 0)


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")
def test_on_a_mesh_every_device_attends_for_its_rows_and_heads():
    inputs, mask = arrays(), CASES["causal and padded"]
    expected = value_and_gradients("xla", inputs, mask)
    with jax.set_mesh(make_mesh(MeshConfig(data=1, fsdp=2, tensor=2))):
        assert_close(value_and_gradients("splash", inputs, mask), expected, 1e-5)


@pytest.mark.tpu
@pytest.mark.parametrize("case", CASES)
def test_splash_on_a_tpu_equals_the_plain_formula(case):
    inputs = arrays("bfloat16", head_dim=128)
    expected = value_and_gradients("xla", inputs, CASES[case])
    assert_close(value_and_gradients("splash", inputs, CASES[case]), expected, 2e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("case", [case for case in CASES if case != "window to both sides"])
def test_cudnn_on_a_gpu_equals_the_plain_formula(case):
    if float(jax.devices()[0].compute_capability) < 9.0:
        pytest.skip("a GPU before Hopper")
    inputs = arrays("bfloat16", head_dim=64)
    expected = value_and_gradients("xla", inputs, CASES[case])
    assert_close(value_and_gradients("cudnn", inputs, CASES[case]), expected, 2e-2)


@pytest.mark.parametrize("case", ["causal window", "packed"])
def test_what_cudnn_is_asked_for_means_the_same_to_xla(case, monkeypatch):
    inputs, ask = arrays(), jax.nn.dot_product_attention
    asked = []

    def by_xla(*arrays, implementation, **arguments):
        asked.append(implementation)
        return ask(*arrays, implementation="xla", **arguments)

    expected = value_and_gradients("xla", inputs, CASES[case])
    monkeypatch.setitem(kernels.FUSED, "cudnn", (lambda *_: "", kernels._cudnn))
    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    assert_close(value_and_gradients("cudnn", inputs, CASES[case]), expected, 1e-5)
    assert asked == ["cudnn"]


def test_what_a_kernel_cannot_honour_goes_to_the_plain_formula_with_the_reason(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformer_jax"), "propagate", True)
    shape = jnp.zeros((2, 256, 4, 16), jnp.bfloat16)
    odd = jnp.zeros((2, 200, 4, 16), jnp.bfloat16)
    odd_length, single = shape[:, 1:], jnp.zeros((2, 256, 4, 16), jnp.float32)
    positions = jnp.zeros((2, 256), jnp.int32)
    cases = [
        ("splash", odd, odd, AttentionMask(), {}, "no multiples of 128"),
        ("splash", shape, shape, AttentionMask(query_positions=positions), {}, "positions"),
        ("splash", shape, shape, AttentionMask(), {"obstacle": "dropout on the weights"}, "dropout on the weights"),
        ("cudnn", single, single, AttentionMask(), {}, "float32, not bfloat16"),
        ("cudnn", odd_length, odd_length, CASES["packed"], {}, "an odd number"),
        ("cudnn", shape[:, :128], shape, AttentionMask(query_positions=positions[:, :128]), {}, "as many queries"),
        ("cudnn", shape, shape, AttentionMask(window=(3, 3)), {}, "a window to both sides"),
        ("cudnn", shape, shape, AttentionMask(), {"soft_cap": 1.0}, "a soft cap"),
    ]
    for wanted, query, key, mask, more, reason in cases:
        _say.cache_clear()
        with caplog.at_level(logging.INFO, "transformer_jax"):
            assert choose_kernel(wanted, query, key, mask, **more) == "xla"
        assert "keys on cpu: xla (" in caplog.text and reason in caplog.text
        caplog.clear()
    assert choose_kernel("cudnn", shape, shape, CASES["causal and padded"]) == "cudnn"
    for kernel in ("cudnn", "splash"):
        assert choose_kernel(kernel, shape, shape, CASES["packed"]) == kernel
    assert choose_kernel("auto", shape, shape, AttentionMask()) == "xla"


@pytest.mark.parametrize(("device", "keys", "kernel"), [("TPU v5 lite", 512, "splash"), ("NVIDIA H100", 256, "cudnn")])
def test_an_accelerator_gets_its_kernel_where_there_are_many_keys(device, keys, kernel, monkeypatch):
    monkeypatch.setattr(kernels, "_device_kind", lambda: device)
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(compute_capability="9.0")])
    few, many = (jnp.zeros((1, length, 2, 8), jnp.bfloat16) for length in (keys - 128, keys))
    segments = jnp.ones((1, keys), jnp.int32)
    for mask in (AttentionMask(causal=True), AttentionMask(query_segments=segments, key_segments=segments)):
        assert choose_kernel("auto", many, many, mask) == kernel
        assert choose_kernel("auto", few, few, mask) == "xla"
        assert choose_kernel("xla", many, many, mask) == "xla"


ON_TPUS = """
import jax, jax.numpy as jnp
from transformer_jax.analysis.plan import topology
from transformer_jax.nn.attention import dot_product_attention
from transformer_jax.nn.mask import AttentionMask
from transformer_jax.parallel.axes import sharding
from transformer_jax.parallel.mesh import MeshConfig, make_mesh

devices, _ = topology("v5e:2x2")
mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), devices)
heads = jax.ShapeDtypeStruct(
    (2, 1024, 4, 64), jnp.bfloat16, sharding=sharding(("batch", "replicated", "heads", "head_dim"), mesh)
)
rows = jax.ShapeDtypeStruct((2, 1024), jnp.int32, sharding=sharding(("batch",), mesh))

def loss(query, key, value, segments):
    mask = AttentionMask(causal=True, query_segments=segments, key_segments=segments)
    return dot_product_attention(query, key, value, mask).astype(jnp.float32).sum()

with jax.set_mesh(mesh):
    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(heads, heads, heads, rows).compile()
text = compiled.as_text()
print(text.count("custom-call_target=\\"tpu_custom_call\\"") or text.count("tpu_custom_call"))
print("2,4,1024,1024" in text or "1,2,1024,1024" in text)
"""


def test_a_tpu_gets_splash_by_itself_compiled_without_having_one():
    pytest.importorskip("libtpu", reason="libtpu compiles for TPUs: pip install -e '.[tpu]'")
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", ON_TPUS], capture_output=True, text=True, env={"PYTHONPATH": root})
    assert done.returncode == 0, done.stderr
    calls, holds_weights = done.stdout.split()
    assert int(calls) >= 3 and holds_weights == "False", "forward, and backward for queries and for keys"
