"""Texts whose length is divided between devices: the same numbers, an eighth of the memory."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files
from transformer_jax.models.decoder_only import llama
from transformer_jax.models.encoder_only import EncoderOnlyConfig
from transformer_jax.nn.attention import dot_product_attention
from transformer_jax.nn.mask import AttentionMask
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.nn.positions import Relative
from transformer_jax.parallel.axes import check_divides, constrain, sharding
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.language_modelling import LanguageModelling
from transformer_jax.tasks.losses import token_losses
from transformer_jax.training.experiment import Experiment
from transformer_jax.training.step import check_batches

pytestmark = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")

SIZE: dict[str, Any] = {"d_model": 16, "num_heads": 4, "d_ff": 32, "num_layers": 3, "vocab_size": 24}
MODELS = {
    "windows": llama(**SIZE, num_kv_heads=2, pattern=("local", "global"), window=5),
    "heads for all": llama(**SIZE | {"num_heads": 8, "num_kv_heads": 8}, window=5, pattern=("local", "global")),
    "relative": EncoderOnlyConfig(**SIZE, positions=Relative(), dropout=0.0),
}
TOKENS = np.random.default_rng(0).integers(3, 24, (4, 32)).astype(np.int32)
SEGMENTS = np.repeat([[1, 2, 3]], 4, axis=0).repeat([9, 17, 6], axis=1).astype(np.int32)


def value_and_gradient(model, mesh_config):
    """Loss and gradient of packed texts on a mesh, the loss in chunks for decoders."""

    @jax.jit
    def run(model):
        tokens, segments = jnp.asarray(TOKENS), jnp.asarray(SEGMENTS)

        def loss(model):
            if hasattr(model, "vectors"):
                vectors = model.decode(tokens, segments=segments).vectors
                return jnp.mean(token_losses(model.make_logits(), vectors, tokens, vocab_size=24, chunk=8))
            return jnp.mean(jax.nn.logsumexp(model(tokens, segments=segments), axis=-1))

        return jax.value_and_grad(loss)(model)

    with jax.set_mesh(make_mesh(mesh_config)):
        value, gradient = run(model)
        text = run.lower(model).compile().as_text() or ""
    return float(value), named_parameters(gradient), text


@pytest.mark.parametrize(
    ("name", "mesh", "messages"),
    [
        ("windows", MeshConfig(data=2, tensor=2, sequence=2), "all-gather"),
        ("relative", MeshConfig(data=1, sequence=8), "all-gather"),
        ("heads for all", MeshConfig(data=1, sequence=8), "all-to-all"),
        ("heads for all", MeshConfig(data=2, tensor=2, sequence=2), "all-to-all"),
    ],
)
def test_a_divided_length_changes_no_number(name, mesh, messages):
    model = MODELS[name].build(0)
    value, gradient, _ = value_and_gradient(model, MeshConfig(data=1))
    other, found, text = value_and_gradient(model, mesh)
    assert other == pytest.approx(value, rel=1e-5)
    norm = np.sqrt(sum(np.sum(np.square(array)) for array in gradient.values()))
    for key, array in gradient.items():
        np.testing.assert_allclose(found[key], array, atol=1e-5 * norm, err_msg=key)
    assert messages in text, "keys and values"
    assert ("all-to-all" in text) == (messages == "all-to-all")


def attention(query, key, value):
    """One causal attention as a layer on the current mesh does it."""
    query, key, value = (constrain(x, ("batch", "length", "heads", "head_dim")) for x in (query, key, value))
    found = dot_product_attention(query, key, value, AttentionMask(causal=True))
    return constrain(found, ("batch", "length", "heads", "head_dim"))


@pytest.mark.parametrize("heads", [1, 8])
@pytest.mark.parametrize("length", [2_048, pytest.param(16_384, marks=pytest.mark.slow)])
def test_long_attention_is_the_same_in_an_eighth_of_the_memory(length, heads):
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(3, 1, length, heads, 4)).astype(np.float32)
    run, found, memory = jax.jit(attention), {}, {}
    for devices in (1, 8):
        mesh = make_mesh(MeshConfig(data=1, sequence=devices))
        with jax.set_mesh(mesh):
            place = partial(jax.device_put, device=sharding(("batch", "length"), mesh))
            inputs = [place(array) for array in arrays]
            analysis: Any = run.lower(*inputs).compile().memory_analysis()
            memory[devices] = analysis.temp_size_in_bytes
            found[devices] = np.asarray(run(*inputs))
    np.testing.assert_allclose(found[8], found[1], atol=1e-5)
    assert memory[8] < memory[1] / 7


def test_a_length_that_a_mesh_does_not_divide_is_refused_with_one_that_it_would():
    data = DataConfig(source=Files(), max_length=100, batch_multiple=8)
    experiment = Experiment(task=LanguageModelling(), data=data, model=MODELS["windows"])
    with pytest.raises(ValueError, match="sequence 8 does not divide data.max_length 100; try 96"):
        check_batches(experiment, make_mesh(MeshConfig(data=1, sequence=8)))


def test_a_parameter_that_a_mesh_does_not_divide_is_named_with_the_sizes_that_would_do():
    mesh = make_mesh(MeshConfig(data=1, tensor=8))
    axes = ("embed", "heads", "head_dim")
    with pytest.raises(ValueError, match=r"tensor 8 does not divide heads of query/kernel, 25; it can be 1, 5, 25"):
        check_divides("query/kernel", (1600, 25, 64), axes, sharding(axes, mesh))
