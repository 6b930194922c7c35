"""The standard deviation of every map of every scheme, against what its source says."""

import math

import numpy as np
import pytest

from transformer_jax.models.decoder_only import DecoderOnlyConfig
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.initializers import SCHEMES
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.nn.positions import Learned

D, HEADS, HEAD_DIM, FF, LAYERS, VOCABULARY = 64, 4, 16, 256, 3, 512


def glorot(*, outputs, inputs=D):
    return math.sqrt(2 / (inputs + outputs))


def alike(*, attention, output, feed_forward, last, table):
    """The deviations of a scheme that draws queries, keys and values alike."""
    maps = dict.fromkeys(
        [f"{kind}_attention/{part}" for kind in ("self", "cross") for part in ("query", "key", "value")]
    )
    maps = dict.fromkeys(maps, attention) | {f"{kind}_attention/output": output for kind in ("self", "cross")}
    return maps | {"feed_forward/input": feed_forward, "feed_forward/output": last, "table": table}


GLOROT = {"output": glorot(outputs=D), "feed_forward": glorot(outputs=FF), "last": glorot(outputs=FF), "table": D**-0.5}
CUT = 0.8796
"""Deviation of a normal distribution that is cut off at two of its own."""
EXPECTED = {
    "paper": alike(attention=glorot(outputs=3 * D), **GLOROT),
    "glorot": alike(attention=glorot(outputs=D), **GLOROT),
    "tensor2tensor": alike(attention=glorot(outputs=3 * D), **GLOROT)
    | {
        "cross_attention/query": glorot(outputs=D),
        "cross_attention/key": glorot(outputs=2 * D),
        "cross_attention/value": glorot(outputs=2 * D),
    },
    "gpt2": alike(attention=0.02, output=0.02 / 6**0.5, feed_forward=0.02, last=0.02 / 6**0.5, table=0.02),
    "bert": alike(attention=0.02 * CUT, output=0.02 * CUT, feed_forward=0.02 * CUT, last=0.02 * CUT, table=0.02 * CUT),
    "t5": alike(attention=D**-0.5, output=D**-0.5, feed_forward=D**-0.5, last=FF**-0.5, table=1.0)
    | {f"{kind}_attention/query": (D * HEAD_DIM) ** -0.5 for kind in ("self", "cross")},
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_map_has_the_deviation_of_its_scheme(scheme):
    config = EncoderDecoderConfig(
        d_model=D, num_heads=HEADS, d_ff=FF, num_layers=LAYERS, vocab_size=VOCABULARY, initializer=scheme
    )
    seen = set()
    for name, value in named_parameters(config.build(0)).items():
        part = next(
            (part for part in EXPECTED[scheme] if f"{part}/kernel" in name or name == f"embedding/{part}"), None
        )
        if part is None:
            assert "norm" in name or name.endswith("bias"), name
            continue
        seen.add(part)
        # 3 x 64 x 64 numbers: the error of a deviation is half a percent.
        np.testing.assert_allclose(np.std(value), EXPECTED[scheme][part], rtol=0.025, err_msg=name)
    assert seen == EXPECTED[scheme].keys()


def test_learned_positions_of_gpt2_are_half_as_large_as_its_tokens():
    config = DecoderOnlyConfig(
        d_model=D, num_heads=HEADS, d_ff=FF, num_layers=1, vocab_size=64, positions=Learned(), initializer="gpt2"
    )
    np.testing.assert_allclose(
        np.std(named_parameters(config.build(0))["decoder_input/positions/table"]), 0.01, rtol=0.025
    )


def test_an_unknown_scheme_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="paper, tensor2tensor, glorot, gpt2"):
        EncoderDecoderConfig(d_model=8, num_heads=2, d_ff=8, vocab_size=8, initializer="xavier").build(0)
