"""Each form of a layer that published models have, against its formula: forward, gradients, and with a cache."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transformer_jax.models.decoder_only import DecoderOnlyConfig
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.models.encoder_only import EncoderOnlyConfig
from transformer_jax.nn.attention import Attention
from transformer_jax.nn.config import LayerConfig
from transformer_jax.nn.feed_forward import FeedForward
from transformer_jax.nn.layer import TransformerLayer
from transformer_jax.nn.linear import dropout
from transformer_jax.nn.mask import AttentionMask
from transformer_jax.nn.norm import RMSNorm
from transformer_jax.nn.parameters import named_parameters, replace_parameters
from transformer_jax.nn.positions import NoPositions, Relative, Rotary, Sinusoidal
from transformer_jax.nn.stack import Stack

D, HEADS, LENGTH = 8, 2, 5
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, LENGTH, D)), jnp.float32)
CAUSAL = AttentionMask(causal=True)


def noisy(module, seed=0):
    """The module with every parameter random, those included that begin as zeros or ones."""
    rng = np.random.default_rng(seed)
    changed = {name: value + 0.3 * rng.normal(size=value.shape) for name, value in named_parameters(module).items()}
    return replace_parameters(module, jax.tree.map(jnp.float32, changed))


def attend_by_hand(p, x, *, scale, cap=0.0):
    """Causal multi-head attention, head by head, of named parameters; a bias that is not there is zero."""

    def projected(name, h):
        y = x @ p[f"{name}/kernel"][:, h]
        return y + p[f"{name}/bias"][h].reshape(1, 1, -1) if f"{name}/bias" in p else y

    out = p["output/bias"].reshape(1, 1, -1) if "output/bias" in p else 0
    for h in range(HEADS):
        query, key, value = (projected(name, h) for name in ("query", "key", "value"))
        scores = scale * query @ jnp.swapaxes(key, -1, -2)
        scores = cap * jnp.tanh(scores / cap) if cap else scores
        scores = jnp.where(jnp.tril(jnp.ones((LENGTH, LENGTH), bool))[None], scores, -jnp.inf)
        out += jax.nn.softmax(scores, axis=-1) @ value @ p["output/kernel"][h]
    return out


@pytest.mark.parametrize(
    ("fields", "scale", "biases"),
    [
        ({}, 0.5, ""),
        ({"attention_bias": True}, 0.5, "query key value output"),
        ({"attention_bias": True, "attention_output_bias": False}, 0.5, "query key value"),
        ({"attention_bias": True, "key_bias": False}, 0.5, "query value output"),
        ({"attention_scale": 1.0}, 1.0, ""),
        ({"attention_scale": 0.3, "soft_cap": 2.0}, 0.3, ""),
        ({"value_dim": 3}, 0.5, ""),
        ({"head_dim": 16, "value_dim": 2}, 0.25, ""),
    ],
)
def test_attention_and_its_gradients_are_the_formula(fields, scale, biases):
    module = noisy(Attention(LayerConfig(d_model=D, num_heads=HEADS, **fields), rngs=nnx.Rngs(0)))
    assert {name.split("/")[0] for name in named_parameters(module) if name.endswith("bias")} == set(biases.split())

    def found(module):
        return jnp.sum(jnp.sin(module(X, mask=CAUSAL)[0]))

    def expected(parameters):
        return jnp.sum(jnp.sin(attend_by_hand(parameters, X, scale=scale, cap=fields.get("soft_cap", 0.0))))

    value, gradient = jax.jit(jax.value_and_grad(found))(module)
    right, wanted = jax.value_and_grad(expected)(named_parameters(module))
    np.testing.assert_allclose(value, right, rtol=1e-4)
    for name, of in named_parameters(gradient).items():
        np.testing.assert_allclose(of, wanted[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_queries_and_keys_are_normalised_over_all_heads_of_a_token_or_each_by_itself():
    for kind, axes in (("all", (-2, -1)), ("head", -1)):
        config = LayerConfig(d_model=D, num_heads=HEADS, norm="rms_norm", query_key_norm=kind, norm_epsilon=0.1)
        module: Any = noisy(Attention(config, rngs=nnx.Rngs(0)))
        query, key = (
            projected
            / jnp.sqrt(jnp.mean(projected**2, axis=axes, keepdims=True) + 0.1)
            * norm.scale[...].reshape(shape)
            for projected, norm in ((module.query(X), module.query_norm), (module.key(X), module.key_norm))
            for shape in [(1, 1, -1, D // HEADS)]
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / (D // HEADS) ** 0.5
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), module.value(X))
        np.testing.assert_allclose(module(X)[0], module.output(mixed), rtol=1e-4, atol=1e-5)


def test_dropout_inside_the_feed_forward_network_stands_behind_its_activation():
    module = noisy(FeedForward(LayerConfig(d_model=D, d_ff=16, feed_forward_dropout=0.5), rngs=nnx.Rngs(0)))
    key = jax.random.key(3)
    expected = module.output(dropout(jax.nn.relu(module.input(X)), 0.5, key))
    np.testing.assert_allclose(module(X, key=key), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(module(X), module.output(jax.nn.relu(module.input(X))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shared", [False, True])
def test_parallel_branches_read_the_same_input(shared):
    config = LayerConfig(
        d_model=D, num_heads=HEADS, d_ff=16, dropout=0.0, norm_placement="pre", parallel=True, parallel_norm=shared
    )
    layer = noisy(TransformerLayer(config, rngs=nnx.Rngs(0)))
    h = layer.self_attention_norm(X)
    other = h if shared else layer.feed_forward_norm(X)
    expected = X + layer.self_attention(h)[0] + layer.feed_forward(other)
    np.testing.assert_allclose(layer(X)[0], expected, rtol=1e-5, atol=1e-5)
    assert (layer.feed_forward_norm is None) == shared


def test_a_zero_centred_norm_multiplies_by_one_more_than_its_parameter():
    norm = noisy(RMSNorm(D, epsilon=0.1, offset=1.0))
    x = np.asarray(X)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.1) * (1 + np.asarray(norm.scale[...]))
    np.testing.assert_allclose(norm(X), expected, rtol=1e-5)
    np.testing.assert_array_equal(RMSNorm(D, offset=1.0).scale[...], 0)


SMALL: dict[str, Any] = {"d_model": D, "num_heads": HEADS, "d_ff": 16, "num_layers": 3, "dropout": 0.0}
SMALL |= {"vocab_size": 19}
TOKENS = jnp.asarray(np.random.default_rng(1).integers(3, 19, (2, LENGTH)), jnp.int32)
PRE: dict[str, Any] = {"norm_placement": "pre", "final_norm": True}
FORMS: dict[str, dict[str, Any]] = {
    "parallel": {**PRE, "parallel": True, "positions": Rotary(fraction=0.5)},
    "both norms": {"norm_placement": "both", "norm": "zero_centred_rms_norm", "soft_cap": 5.0, "logits_soft_cap": 3.0},
    "output norms": {"norm_placement": "output", "norm": "rms_norm", "final_norm": True},
    "narrow values": {"value_dim": 3, "attention_scale": 1.0},
    "some without positions": {**PRE, "positions": Rotary(), "pattern": ("global", "no_positions")},
    "windows with positions": {
        "positions": NoPositions(),
        "local_positions": Rotary(),
        "pattern": ("local", "global"),
        "window": 2,
    },
    "shared layers": {"shared_layers": True},
    "norms over all heads": {"norm": "rms_norm", "query_key_norm": "all", "num_kv_heads": 1, "output_bias": True},
    "narrow embeddings": {"embedding_size": 6, "tie_output": False, "embedding_norm": True},
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_decodes_with_a_cache_as_it_reads_whole_texts(name):
    model = noisy(DecoderOnlyConfig(**SMALL | FORMS[name]).build(0))

    @jax.jit
    def cached(model):
        cache, outputs = model.start_cache(2, LENGTH), []
        for piece in (TOKENS[:, :3], TOKENS[:, 3:4], TOKENS[:, 4:]):
            logits, cache = model.extend(piece, cache)
            outputs.append(logits)
        return jnp.concatenate(outputs, axis=1)

    whole = jax.jit(lambda model: model(TOKENS))(model)
    np.testing.assert_allclose(cached(model)[..., :19], whole[..., :19], rtol=1e-4, atol=2e-5)


def test_an_output_bias_is_added_to_the_logits_of_its_tokens():
    model = DecoderOnlyConfig(**SMALL, output_bias=True).build(0)
    parameters = named_parameters(model)
    assert parameters["output_bias"].shape == (24,)
    biased = replace_parameters(model, parameters | {"output_bias": jnp.arange(24.0)})
    np.testing.assert_allclose(
        (biased(TOKENS) - model(TOKENS))[..., :19], np.ones((2, 5, 1)) * np.arange(19), atol=1e-4
    )


def test_an_encoder_of_other_layers_than_the_decoders():
    """Its width, depth and positions are its own; perturbed padding of the memory changes nothing."""
    encoder = LayerConfig(num_layers=1, d_model=6, num_heads=3, d_ff=10, dropout=0.0, positions=Relative())
    fields = {"encoder": encoder, "share_embeddings": False, "source_vocab_size": 19, "positions": Rotary()}
    model: Any = noisy(EncoderDecoderConfig(**SMALL | fields).build(0))
    lengths = jnp.array([LENGTH, 3])
    memory = model.encode(TOKENS, source_lengths=lengths)
    assert memory.vectors.shape == (2, LENGTH, 6)
    assert model.decoder.layers.cross_attention.key.kernel.shape[1] == 6
    whole = model(TOKENS, TOKENS, source_lengths=lengths)
    changed = model(TOKENS.at[1, 3:].set(4), TOKENS, source_lengths=lengths)
    np.testing.assert_allclose(changed, whole, rtol=1e-5)
    cache = model.start_cache(memory, LENGTH)
    first, cache = model.extend(TOKENS[:, :2], cache)
    rest, _ = model.extend(TOKENS[:, 2:], cache)
    cached = jnp.concatenate([first, rest], axis=1)
    np.testing.assert_allclose(cached[..., :19], whole[..., :19], rtol=1e-4, atol=2e-5)


def test_logits_are_scaled_and_capped_but_for_rows_that_pad_the_vocabulary():
    capped = DecoderOnlyConfig(**SMALL, logits_scale=0.3, logits_soft_cap=0.5).build(0)(TOKENS)
    plain = DecoderOnlyConfig(**SMALL).build(0)(TOKENS)
    np.testing.assert_allclose(capped[..., :19], 0.5 * np.tanh(0.3 * plain[..., :19] / 0.5), rtol=1e-4, atol=1e-6)
    assert (capped[..., 19:] < -1e29).all()


def test_one_shared_layer_is_a_stack_of_equal_layers():
    config = EncoderOnlyConfig(**SMALL, head="none")
    shared = noisy(dataclasses.replace(config, shared_layers=True).build(0))
    parameters = named_parameters(shared)
    copies = {name.replace("/shared/", "/layers/"): value for name, value in parameters.items()}
    copies = {name: jnp.stack([v] * 3) if "/layers/" in name else v for name, v in copies.items()}
    plain = replace_parameters(config.build(0), copies)

    def loss(model):
        return jnp.sum(jnp.sin(model(TOKENS)))

    (one, of_one), (other, of_other) = (jax.jit(jax.value_and_grad(loss))(model) for model in (shared, plain))
    np.testing.assert_allclose(one, other, rtol=1e-5)
    for name, gradient in named_parameters(of_one).items():
        summed = named_parameters(of_other)[name.replace("/shared/", "/layers/")]
        summed = summed.sum(axis=0) if "/shared/" in name else summed
        np.testing.assert_allclose(gradient, summed, rtol=1e-4, atol=1e-5, err_msg=name)


def test_layers_without_positions_do_not_know_the_order():
    config = LayerConfig(d_model=D, num_heads=HEADS, d_ff=16, positions=Rotary(), pattern=("no_positions",))
    config = dataclasses.replace(config, num_layers=2)
    stack = Stack(config, rngs=nnx.Rngs(0))
    turned = stack(X[:, ::-1])[0][:, ::-1]
    np.testing.assert_allclose(stack(X)[0], turned, rtol=1e-4, atol=1e-5)
    placed = Stack(dataclasses.replace(config, pattern=("global",)), rngs=nnx.Rngs(0))
    assert np.abs(placed(X)[0] - placed(X[:, ::-1])[0][:, ::-1]).max() > 1e-3


def test_embeddings_of_another_width_are_mapped_to_the_models():
    model = noisy(EncoderOnlyConfig(**SMALL, embedding_size=6, head="none").build(0))
    assert model.embedding.table.shape == (24, 6)
    x = model.embedding(TOKENS) + model.encoder_input.kind.add(jnp.zeros((2, LENGTH, 6)), jnp.arange(LENGTH)[None], {})
    projection = model.encoder_input.projection
    expected = x @ projection.kernel[...] + projection.bias[...].reshape(1, 1, -1)
    np.testing.assert_allclose(model.encoder_input(TOKENS, model.embedding)[0], expected, rtol=1e-5, atol=1e-5)


class Sandwich(TransformerLayer):
    """A feed-forward network of half weight on both sides of attention (Gulati et al. 2020, "Conformer")."""

    def combine(self, x, attend_self, attend_memory, feed_forward):
        x = x + 0.5 * feed_forward(x)
        x = self.add_and_norm("self_attention", x, attend_self)
        x = x if attend_memory is None else self.add_and_norm("cross_attention", x, attend_memory)
        return x + 0.5 * feed_forward(x)


@dataclass(frozen=True)
class SandwichConfig(EncoderDecoderConfig):
    layer = Sandwich


def test_a_form_of_ones_own_is_one_method_and_works_in_training_decoding_and_maps():
    model = noisy(SandwichConfig(**SMALL).build(0))
    lengths = jnp.array([LENGTH, 3])
    whole = model(TOKENS, TOKENS, source_lengths=lengths)
    assert (
        np.abs(whole - noisy(EncoderDecoderConfig(**SMALL).build(0))(TOKENS, TOKENS, source_lengths=lengths)).max()
        > 1e-3
    )
    gradient = jax.grad(lambda model: jnp.sum(model(TOKENS, TOKENS, source_lengths=lengths)[..., :19] ** 2))(model)
    assert all(np.abs(value).max() > 0 for name, value in named_parameters(gradient).items() if "output" in name)
    memory = model.encode(TOKENS, source_lengths=lengths)
    cache = model.start_cache(memory, LENGTH)
    steps = []
    for i in range(LENGTH):
        logits, cache = model.extend(TOKENS[:, i : i + 1], cache)
        steps.append(logits)
    np.testing.assert_allclose(jnp.concatenate(steps, axis=1)[..., :19], whole[..., :19], rtol=1e-4, atol=2e-5)
    inside: Any = model.decode(TOKENS, memory, intermediates=True).intermediates
    assert inside.attention["self_attention"].shape == (3, 2, HEADS, LENGTH, LENGTH)
    np.testing.assert_allclose(inside.attention["cross_attention"].sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("local_positions", [None, Relative()])
def test_a_stack_of_local_layers_alone_has_the_parameters_of_its_positions(local_positions):
    config = LayerConfig(
        d_model=D, num_heads=HEADS, d_ff=16, positions=Relative(), local_positions=local_positions, pattern=("local",)
    )
    stack = Stack(config, rngs=nnx.Rngs(0))
    assert jnp.isfinite(stack(X)[0]).all()
    assert sum("position_bias" in name for name in named_parameters(stack)) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"local_positions": Rotary()}, "model.local_positions needs local layers"),
        ({"local_positions": Sinusoidal(), "pattern": ("local",)}, "model.local_positions acts in attention"),
        ({"first_attention_norm": False}, "first_attention_norm False needs model.norm_placement pre"),
        ({"parallel_norm": True}, "model.parallel_norm is of parallel branches"),
        ({"num_layers": 0}, "at least one layer"),
        ({"query_key_norm": "heads"}, "unknown model.query_key_norm 'heads'; known: none, head, all"),
    ],
)
def test_a_field_that_would_be_ignored_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Stack(LayerConfig(d_model=D, num_heads=HEADS, d_ff=16, **fields), rngs=nnx.Rngs(0))
