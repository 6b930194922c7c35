"""The standard deviation of every map of every scheme, against what its source says."""

import math
from typing import Any

import numpy as np
import pytest

from transformer_jax.models.decoder_only import DecoderOnlyConfig
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.models.encoder_only import vit
from transformer_jax.nn.initializers import SCHEMES
from transformer_jax.nn.inputs import Patches
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.nn.positions import Learned

D, HEADS, KV_HEADS, HEAD_DIM, VALUE_DIM, FF, VOCABULARY = 64, 6, 3, 24, 16, 256, 512
LAYERS = {"encoder": 3, "decoder": 5}
QUERY, KEY, VALUE, MIXED = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * VALUE_DIM, HEADS * VALUE_DIM
CUT = 0.8796
"""Deviation of a normal distribution that is cut off at two of its own."""


def glorot(inputs, outputs):
    return math.sqrt(2 / (inputs + outputs))


def expected(scheme: str, stack: str, name: str) -> float:
    """The deviation of a map by the scheme's source; sizes are such that no two formulas agree by accident."""
    attention, _, part = name.partition("/")
    outputs = {"query": QUERY, "key": KEY, "value": VALUE}
    inputs = {"output": MIXED if "attention" in attention else FF}.get(part, D)
    residual = 0.02 / math.sqrt(2 * LAYERS[stack]) if part == "output" else 0.02
    if scheme in ("gpt2", "bert"):
        return residual if scheme == "gpt2" else 0.02 * CUT
    if scheme == "t5":
        return (inputs * (HEAD_DIM if part == "query" else 1)) ** -0.5
    if part not in outputs or "attention" not in attention:
        return glorot(inputs, D if part == "output" else FF)
    if scheme in ("glorot", "vit") or (scheme, attention, part) == ("tensor2tensor", "cross_attention", "query"):
        return glorot(D, outputs[part])
    if (scheme, attention) == ("tensor2tensor", "cross_attention"):
        return glorot(D, KEY + VALUE)
    return glorot(D, QUERY + KEY + VALUE)


TABLES = {"gpt2": 0.02, "bert": 0.02 * CUT, "t5": 1.0}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_map_has_the_deviation_of_its_scheme(scheme):
    config = EncoderDecoderConfig(
        d_model=D,
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        value_dim=VALUE_DIM,
        d_ff=FF,
        num_layers=LAYERS["encoder"],
        num_decoder_layers=LAYERS["decoder"],
        vocab_size=VOCABULARY,
        tie_output=False,
        attention_scale=1.0,
        initializer=scheme,
    )
    maps = 0
    for name, value in named_parameters(config.build(0)).items():
        if "kernel" not in name and "table" not in name:
            continue
        if name == "embedding/table":
            wanted = TABLES.get(scheme) or D**-0.5
        elif name == "output/projection/kernel":
            wanted = {"gpt2": 0.02, "bert": 0.02 * CUT, "t5": D**-0.5}.get(scheme) or glorot(D, VOCABULARY)
        else:
            stack, _, rest = name.partition("/layers/")
            wanted = expected(scheme, stack, rest.removesuffix("/kernel"))
        maps += 1
        # 3 x 64 x 48 numbers at least: the error of a deviation is below one percent.
        np.testing.assert_allclose(np.std(value), wanted, rtol=0.03, err_msg=name)
    assert maps == 2 + 2 * 4 + 4 + 2 * 2


def test_learned_positions_of_gpt2_are_half_as_large_as_its_tokens():
    config = DecoderOnlyConfig(
        d_model=D, num_heads=4, d_ff=FF, num_layers=1, vocab_size=64, positions=Learned(), initializer="gpt2"
    )
    np.testing.assert_allclose(
        np.std(named_parameters(config.build(0))["decoder_input/positions/table"]), 0.01, rtol=0.025
    )


@pytest.mark.parametrize(("scheme", "deviation"), [("vit", 0.0), ("glorot", glorot(D, 10))])
def test_a_vit_begins_with_classes_that_are_all_as_probable(scheme, deviation):
    sizes: Any = {
        "d_model": D,
        "num_heads": 4,
        "d_ff": FF,
        "num_layers": 1,
        "num_outputs": 10,
        "input": Patches(4, 8, 3),
    }
    config = vit(**sizes) if scheme == "vit" else vit(**sizes, initializer=scheme)
    parameters = named_parameters(config.build(0))
    np.testing.assert_allclose(np.std(parameters["head/kernel"]), deviation, rtol=0.1)
    assert np.std(parameters["encoder/layers/self_attention/query/kernel"]) > 0.1


def test_an_unknown_scheme_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="paper, tensor2tensor, glorot, vit, gpt2"):
        EncoderDecoderConfig(d_model=8, num_heads=2, d_ff=8, vocab_size=8, initializer="xavier").build(0)


def test_the_scheme_of_t5_is_refused_where_scores_or_logits_are_not_scaled_as_it_expects():
    with pytest.raises(ValueError, match="t5 needs model.attention_scale 1"):
        DecoderOnlyConfig(d_model=8, num_heads=2, d_ff=8, vocab_size=8, initializer="t5").build(0)
