import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.models.encoder_decoder import EncoderDecoderConfig, base, big
from transformer_jax.nn.linear import dropout
from transformer_jax.nn.parameters import named_parameters, parameter_axes, replace_parameters
from transformer_jax.nn.positions import Learned

SMALL = EncoderDecoderConfig(
    d_model=16, num_heads=2, d_ff=24, num_layers=2, dropout=0.1, vocab_size=21, source_vocab_size=21, max_length=32
)
SOURCE = jnp.asarray(np.random.default_rng(0).integers(4, 21, (3, 7)))
TARGET = jnp.asarray(np.random.default_rng(1).integers(4, 21, (3, 6)))
LENGTHS = jnp.asarray([7, 4, 1])

VARIANTS = {
    "paper": {},
    "pre-norm": {"norm_placement": "pre", "final_norm": True},
    "rms norm": {"norm": "rms_norm"},
    "gated gelu": {"activation": "gelu", "gated": True},
    "learned positions": {"positions": Learned()},
    "biases": {"attention_bias": True},
    "no biases": {"feed_forward_bias": False},
    "free output": {"tie_output": False},
    "two vocabularies": {"share_embeddings": False, "source_vocab_size": 30},
    "deep encoder": {"num_decoder_layers": 1},
    "padded vocabulary": {"vocab_multiple": 16},
}


OFTEN = ("paper", "pre-norm", "learned positions", "two vocabularies")
"""All others run with --slow."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in VARIANTS],
)
def config(request):
    return dataclasses.replace(SMALL, **VARIANTS[request.param])


@pytest.fixture(scope="module")
def model(config):
    return config.build(0)


def logits_of(model, **changes):
    arguments = {"source": SOURCE, "target": TARGET, "source_lengths": LENGTHS} | changes
    return jax.jit(lambda model, **arguments: model(**arguments))(model, **arguments)


def test_parameter_count_is_the_closed_formula(config):
    parameters = named_parameters(jax.eval_shape(lambda: config.build(0)))
    padding = 0
    for name, size in (("embedding/table", config.vocab_size), ("source_embedding/table", config.source_vocab_size)):
        if name in parameters:
            padding += (parameters[name].shape[0] - size) * config.d_model
    if "output/projection/kernel" in parameters:
        padding += (parameters["output/projection/kernel"].shape[1] - config.vocab_size) * config.d_model
    assert sum(leaf.size for leaf in parameters.values()) - padding == config.num_parameters()


def test_the_papers_models_have_63_and_214_million_parameters():
    # Table 3 of the paper says 65 and 213 million, for vocabularies of "about 37000" tokens.
    assert base(vocab_size=37_000).num_parameters() == 63_045_632
    assert big(vocab_size=37_000).num_parameters() == 214_171_648


def test_what_stands_in_padding_changes_nothing(model):
    hidden = jnp.arange(SOURCE.shape[1])[None] >= LENGTHS[:, None]
    np.testing.assert_array_equal(logits_of(model), logits_of(model, source=jnp.where(hidden, 5, SOURCE)))


def test_an_example_alone_gives_the_logits_that_it_gives_in_a_batch(model):
    together = logits_of(model)
    for row, length in enumerate(LENGTHS[1:], 1):
        alone = logits_of(
            model, source=SOURCE[row : row + 1, :length], target=TARGET[row : row + 1], source_lengths=None
        )
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-5)


def test_a_position_has_no_gradient_from_later_target_embeddings(config):
    """Causality: the first positions' logits do not move, exactly, with the embeddings of later tokens."""
    model = dataclasses.replace(config, tie_output=False, share_embeddings=False).build(0)
    target = jnp.arange(4, 10)[None]

    def loss(table, position):
        variables = named_parameters(model) | {"embedding/table": table}
        moved = replace_parameters(model, variables)
        return jnp.sum(
            moved(SOURCE[:1], target)[0, position] ** 2 * (jnp.arange(24 if table.shape[0] < 32 else 32) < 21)
        )

    gradient = jax.jit(jax.grad(loss))
    table = named_parameters(model)["embedding/table"]
    for position in range(target.shape[1]):
        moved = jnp.abs(gradient(table, position)).sum(axis=1)[target[0]]
        assert (moved[: position + 1] > 0).all()
        assert (moved[position + 1 :] == 0).all()


def test_cached_decoding_equals_the_full_forward_pass(model):
    @jax.jit
    def cached(model):
        cache = model.start_cache(model.encode(SOURCE, source_lengths=LENGTHS), capacity=8)
        outputs, start = [], 0
        for size in (2, 1, 3):
            logits, cache = model.extend(TARGET[:, start : start + size], cache)
            outputs.append(logits)
            start += size
        return jnp.concatenate(outputs, axis=1)

    np.testing.assert_allclose(cached(model), logits_of(model), rtol=1e-4, atol=1e-5)


def test_rows_of_a_beam_share_the_memory_and_move_their_cache():
    model = SMALL.build(0)
    cache = model.start_cache(model.encode(SOURCE, source_lengths=LENGTHS), capacity=8)
    rows = jnp.asarray([0, 0, 1, 1, 2, 2])
    cache = cache.take(rows)
    first = jnp.asarray([[4], [5], [6], [7], [8], [9]])
    _, cache = model.extend(first, cache)
    swap = jnp.asarray([1, 0, 3, 2, 5, 4])
    logits, _ = model.extend(first, cache.take(swap))
    expected = model(SOURCE[rows], jnp.concatenate([first[swap], first], 1), source_lengths=LENGTHS[rows])[:, -1:]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_remat_and_unroll_change_no_number():
    def loss_and_gradient(config):
        model = config.build(0)

        def loss(model):
            return jnp.sum(model(SOURCE, TARGET, key=jax.random.key(0))[..., :21] ** 2)

        return jax.jit(jax.value_and_grad(loss))(model)

    plain = loss_and_gradient(SMALL)
    for field in ("remat", "unroll"):
        changed = loss_and_gradient(dataclasses.replace(SMALL, **{field: True}))
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(changed), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4, err_msg=field)


def test_bfloat16_leaves_parameters_and_logits_in_float32():
    model = dataclasses.replace(SMALL, dtype="bfloat16").build(0)
    assert {leaf.dtype for leaf in named_parameters(model).values()} == {jnp.dtype("float32")}
    logits = logits_of(model)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits[..., :21], logits_of(SMALL.build(0))[..., :21], atol=0.1)
    assert (logits[..., :21] != logits_of(SMALL.build(0))[..., :21]).any()


def test_dropout_acts_with_a_key_only_and_differs_between_layers_and_sides():
    model = dataclasses.replace(SMALL, dropout=0.5).build(0)
    np.testing.assert_array_equal(logits_of(model), logits_of(model))
    one, same, two = (logits_of(model, key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != two).any()
    keys = jax.random.split(jax.random.key(0))
    expected = model.logits(model.decode(TARGET, model.encode(SOURCE, key=keys[0]), key=keys[1]).vectors)
    np.testing.assert_allclose(model(SOURCE, TARGET, key=jax.random.key(0)), expected, rtol=1e-4, atol=1e-5)


def test_embeddings_are_scaled_placed_and_dropped_out_as_in_sections_3_4_3_5_and_5_4():
    model = dataclasses.replace(SMALL, dropout=0.5).build(0)
    table, tokens = np.asarray(model.embedding.table[...]), np.asarray(SOURCE)
    expected = np.zeros((3, 7, 16))
    for row, position, i in np.ndindex(3, 7, 16):
        angle = position / 10_000 ** (i // 2 * 2 / 16)
        wave = math.cos(angle) if i % 2 else math.sin(angle)
        expected[row, position, i] = table[tokens[row, position], i] * math.sqrt(16) + wave
    some = jax.random.key(0)
    for key, dropped in ((None, expected), (some, dropout(jnp.asarray(expected), 0.5, some))):
        np.testing.assert_allclose(model.encoder_input(SOURCE, model.embedding, key=key)[0], dropped, atol=1e-5)


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="older CPU backends lack some of these products")
def test_every_product_with_parameters_has_bfloat16_operands_backwards_too():
    model = dataclasses.replace(SMALL, dtype="bfloat16").build(0)

    def loss(model):
        return jnp.sum(jax.nn.log_softmax(model(SOURCE, TARGET, source_lengths=LENGTHS)))

    found = equations(jax.make_jaxpr(jax.grad(loss))(model).jaxpr)
    products = [equation.invars for equation in found if equation.primitive.name == "dot_general"]
    # Scores of attention are float32, and so is their gradient inside of JAX's own function.
    of_parameters = [operand.aval.dtype.name for pair in products for operand in pair if operand.aval.ndim < 4]
    assert len(of_parameters) > 40 and set(of_parameters) == {"bfloat16"}


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_intermediates_are_what_the_forward_pass_uses():
    model = SMALL.build(0)
    memory = model.encode(SOURCE, source_lengths=LENGTHS, intermediates=True)
    inside: Any = memory.intermediates
    np.testing.assert_allclose(inside.hidden[-1], memory.vectors, atol=1e-6)
    weights = inside.attention["self_attention"]
    assert weights.shape == (2, 3, 2, 7, 7)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert (weights[:, 1, :, :, 4:] == 0).all()
    inside = model.decode(TARGET, memory, intermediates=True).intermediates
    assert inside.attention["cross_attention"].shape == (2, 3, 2, 6, 7)
    assert (jnp.triu(inside.attention["self_attention"], 1) == 0).all()


def test_arrays_of_a_model_are_named_parameters_with_named_axes(config, model):
    parameters, axes = named_parameters(model), parameter_axes(model)
    assert len(jax.tree.leaves(model)) == len(parameters)
    assert all(leaf.ndim == len(axes[name]) for name, leaf in parameters.items())
    assert all(("layers" in of) == ("/layers/" in name) for name, of in axes.items())
    assert "decoder/layers/self_attention/query/kernel" in parameters
    assert ("encoder_input/positions/table" in parameters) == isinstance(config.positions, Learned)
    assert sum("embedding" in name or "output/projection" in name for name in parameters) == (
        1 + (not config.tie_output) + (not config.share_embeddings)
    )


def test_padding_rows_of_the_vocabulary_are_never_likely():
    model = dataclasses.replace(SMALL, vocab_multiple=16).build(0)
    probabilities = jax.nn.softmax(logits_of(model), axis=-1)
    assert probabilities.shape[-1] == 32
    assert (probabilities[..., 21:] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, "not a multiple of num_heads"),
        ({"num_layers": 0}, "at least one layer, not 0"),
        ({"activation": "swish"}, "unknown model.activation 'swish'; known: relu"),
        ({"norm": "batch"}, "unknown model.norm"),
        ({"norm_placement": "behind"}, "unknown model.norm_placement .behind.; known: post, pre, both, output"),
        ({"parallel": True}, "model.parallel needs model.norm_placement pre"),
        ({"embedding_size": 8}, "model.tie_output needs embeddings as wide as the model"),
        ({"dtype": "int8"}, "known: float32, bfloat16"),
        ({"d_model": 15, "num_heads": 3}, "even d_model"),
        ({"vocab_size": 0}, "vocab_size must be positive"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as error:
        model = dataclasses.replace(SMALL, **change).build(0)
        model(SOURCE, TARGET)
    assert "\n" not in str(error.value)
