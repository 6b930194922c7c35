"""What a decoder-only model may see, and that its caches change nothing."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.decoding.growth import with_slots
from transformer_jax.models.decoder_only import GPT2_SIZES, DecoderOnlyConfig, gpt2, llama
from transformer_jax.nn.inputs import TokenInput
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.nn.positions import Position, Rotary

SMALL: dict[str, Any] = {"d_model": 16, "num_heads": 4, "d_ff": 24, "num_layers": 3, "vocab_size": 21}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(3, 21, (3, 12)), jnp.int32)
FORMS = {
    "gpt2": gpt2(**SMALL, max_length=32, dropout=0.0, attention_dropout=0.0),
    "llama": llama(**SMALL, num_kv_heads=2),
    "windows": llama(**SMALL, pattern=("local", "global"), window=3, local_positions=Rotary(base=100.0)),
    "caps": llama(**SMALL, query_key_norm="head", soft_cap=5.0, head_dim=6, pattern=("local",), window=4),
    **{
        name: DecoderOnlyConfig(**SMALL, positions=kind(), dropout=0.0, max_length=32)
        for name, kind in Position.kinds.items()
        if not kind.of_patches
    },
}


OFTEN = ("gpt2", "llama", "windows", "caps")
"""All others run with --slow."""


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in FORMS]
)
def config(request):
    return FORMS[request.param]


@pytest.fixture(scope="module")
def model(config, randomised):
    return randomised(config.build(0))


def test_parameter_count_is_the_closed_formula(config):
    leaves = named_parameters(jax.eval_shape(lambda: config.build(0)))
    count = sum(leaf.size for leaf in leaves.values())
    padding = (24 - 21) * 16 * (1 if config.tie_output else 2)
    assert config.num_parameters() == count - padding


@pytest.mark.parametrize(
    ("name", "millions"), [("small", 124.44), ("medium", 354.82), ("large", 774.03), ("xl", 1557.61)]
)
def test_the_gpt2_family_has_its_published_sizes(name, millions):
    config = gpt2(**GPT2_SIZES[name], vocab_size=50_257)
    assert config.num_parameters() / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("packed", [False, True])
def test_a_position_has_no_gradient_from_later_embeddings(model, packed):
    segments = jnp.asarray([[1] * 5 + [2] * 7] * 3) if packed else None
    positions = jnp.asarray([[*range(5), *range(7)]] * 3) if packed else None
    call = TokenInput.__call__

    def at(x, position):
        def given(self, tokens, embedding, **described):
            return call(self, tokens, embedding, **described)[0] + x, None

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TokenInput, "__call__", given)
            logits = model(TOKENS, segments=segments, positions=positions)
        return jnp.sum(logits[:, position, :21] ** 2)

    gradient_at = jax.jit(jax.grad(at))
    for position in (0, 4, 5, 9):
        gradient = np.asarray(gradient_at(jnp.ones((3, 12, 16)), position))
        seen = np.abs(gradient).sum(axis=(0, 2)) > 0
        assert not seen[position + 1 :].any()
        assert seen[position]
        assert not packed or position < 5 or not seen[:5].any(), "a document sees no other"


extend = jax.jit(lambda model, tokens, cache: model.extend(tokens, cache))


@partial(jax.jit, static_argnames="capacity")
def prefill(model, prompt, lengths, capacity):
    return model.prefill(prompt, lengths, model.start_cache(len(prompt), capacity))


def logits_of(model, tokens, **described):
    return np.asarray(jax.jit(lambda model: model(tokens, **described))(model))[..., :21]


def test_cached_decoding_equals_the_full_forward_pass(model):
    cache, outputs, start = model.start_cache(3, 12), [], 0
    for size in (1, 5, 1, 1, 1, 1, 2):
        logits, cache = extend(model, TOKENS[:, start : start + size], cache)
        outputs.append(logits)
        start += size
    found = np.concatenate(outputs, axis=1)[..., :21]
    np.testing.assert_allclose(found, logits_of(model, TOKENS), rtol=1e-4, atol=2e-5)


def test_prompts_of_different_length_go_on_as_if_alone(model):
    lengths = [5, 2, 8]
    prompt = jnp.stack([jnp.concatenate([jnp.zeros(8 - n, jnp.int32), TOKENS[i, :n]]) for i, n in enumerate(lengths)])
    more = jnp.asarray([[4, 5, 6]] * 3, jnp.int32)

    first, cache = prefill(model, prompt, jnp.asarray(lengths), 11)
    one, cache = extend(model, more[:, :1], cache)
    rest, _ = extend(model, more[:, 1:], cache)
    found = np.concatenate([first[:, None], one, rest], axis=1)[..., :21]
    for i, n in enumerate(lengths):
        alone = logits_of(model, jnp.concatenate([TOKENS[i, :n], more[i]])[None])[0, n - 1 :]
        np.testing.assert_allclose(found[i], alone, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("window", [3, 6, 9])
def test_a_cache_that_grows_decodes_as_one_that_had_room(window, randomised):
    """Also where it is a ring that is full, but not as wide as the window, and holds the padding of prompts."""
    model = randomised(llama(**SMALL, pattern=("local", "global"), window=window).build(0))
    prompt, lengths = jnp.asarray([[1, 2, 3], [0, 0, 4], [0, 5, 6]]), jnp.asarray([3, 1, 2])

    def decoded(*sizes):
        logits, cache = prefill(model, prompt, lengths, 3 + sizes[0])
        outputs = [logits]
        for position, size in enumerate(sizes):
            cache = with_slots(partial(model.start_cache, 3), cache, 3 + size)
            logits, cache = extend(model, TOKENS[:, position : position + 1], cache)
            outputs.append(logits[:, 0])
        return np.stack(outputs)[..., :21]

    found, expected = decoded(1, 4, 4, 4, 7, 7, 7, 8), decoded(*[8] * 8)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_packed_documents_give_what_they_give_alone(model):
    documents = [TOKENS[0, :5], TOKENS[1, :4], TOKENS[2, :3]]
    segments = jnp.asarray([[1] * 5 + [2] * 4 + [3] * 3])
    positions = jnp.asarray([[*range(5), *range(4), *range(3)]])
    packed = logits_of(model, jnp.concatenate(documents)[None], segments=segments, positions=positions)[0]
    alone = [logits_of(model, document[None])[0] for document in documents]
    np.testing.assert_allclose(packed, np.concatenate(alone), rtol=1e-4, atol=2e-5)


def test_a_local_layer_keeps_no_more_than_its_window():
    model = FORMS["windows"].build(0)
    cache = model.start_cache(2, 100).layers
    sizes = {tokens.positions.shape[-1] for tokens in cache.tokens.values()}
    assert sizes == {3 + 1, 100}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kv_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ({"pattern": ("locl",)}, "model.pattern is made of global, local, no_positions, not of"),
        ({"positions": Rotary(), "head_dim": 3}, "head_dim that 2 divides"),
    ],
)
def test_what_cannot_be_built_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(FORMS["gpt2"], **change).build(0)(TOKENS)


def test_a_renamed_field_is_refused_with_its_new_name():
    with pytest.raises(ValueError, match=r"model.rotary_base is now written positions=Rotary\(base=...\)"):
        llama(rotary_base=5e5)
