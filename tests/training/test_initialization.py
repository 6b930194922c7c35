import dataclasses
import re
from typing import Any

import jax
import numpy as np
import pytest

from transformer_jax.models.decoder_only import gpt2
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.models.encoder_only import bert, modern_bert
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.training.initialization import taken, with_taken

SIZE: dict[str, Any] = {"d_model": 16, "num_heads": 2, "d_ff": 32, "vocab_size": 40}
BERT = bert(**SIZE, num_layers=5, max_length=24)


def arrays(config, seed):
    return {name: np.asarray(value) for name, value in named_parameters(config.build(seed)).items()}


def begin(config, old):
    """The parameters of a fresh model, those that it begins with, and the table."""
    fresh = named_parameters(config.build(1))
    parts, table = taken(config, old)
    return fresh, jax.tree.map(np.asarray, with_taken(fresh, old, parts)), table


def test_the_same_model_is_taken_whole():
    old = arrays(BERT, 0)
    _, new, table = begin(BERT, old)
    assert all((new[name] == old[name]).all() for name in old)
    assert "new" not in table and "left" not in table


def test_the_first_layers_and_the_common_part_of_vocabulary_and_positions_are_taken():
    old = arrays(BERT, 0)
    smaller = dataclasses.replace(BERT, num_layers=3, max_length=9, vocab_size=32)
    larger = dataclasses.replace(BERT, num_layers=6, max_length=30, vocab_size=48)
    _, new, table = begin(smaller, old)
    for name in ("encoder/layers/feed_forward/input/kernel", "positions/table", "embedding/table"):
        np.testing.assert_array_equal(new[name], old[name][: len(new[name])])
    assert re.search(r"encoder/layers/feed_forward/input/kernel +3x16x32 .*shares with \(5, 16, 32\)", table)
    fresh, new, _ = begin(larger, old)
    for name in ("encoder/layers/feed_forward/input/kernel", "positions/table", "embedding/table"):
        size = len(old[name])
        np.testing.assert_array_equal(new[name][:size], old[name])
        np.testing.assert_array_equal(new[name][size:], fresh[name][size:])


def test_another_head_is_new_and_the_old_one_is_left():
    old = arrays(BERT, 0)
    fresh, new, table = begin(dataclasses.replace(BERT, head="sequence", num_outputs=3), old)
    np.testing.assert_array_equal(new["head/kernel"], fresh["head/kernel"])
    np.testing.assert_array_equal(
        new["encoder/layers/self_attention/query/kernel"], old["encoder/layers/self_attention/query/kernel"]
    )
    kinds = {line.split()[1]: line.split()[0] for line in table.splitlines()}
    assert kinds["head/kernel"] == kinds["pooler/transform/bias"] == "new"
    assert kinds["head/transform/kernel"] == "left" and kinds["token_types"] == "taken"


def test_the_encoder_of_another_variant_fits():
    config = EncoderDecoderConfig(**SIZE, source_vocab_size=40, num_layers=2, attention_bias=True)
    old = arrays(BERT, 0)
    fresh, new, _ = begin(config, old)
    name = "layers/self_attention/query/kernel"
    np.testing.assert_array_equal(new[f"encoder/{name}"], old[f"encoder/{name}"][:2])
    np.testing.assert_array_equal(new[f"decoder/{name}"], fresh[f"decoder/{name}"])


def test_a_width_that_differs_is_new_and_nothing_at_all_is_refused():
    old = arrays(BERT, 0)
    _, _, table = begin(dataclasses.replace(BERT, d_ff=64), old)
    assert re.search("new +encoder/layers/feed_forward/input/kernel", table) and "of shape (5, 16, 32) there" in table
    with pytest.raises(ValueError, match="no parameter fits"):
        taken(gpt2(d_model=32, num_heads=2, d_ff=64, num_layers=1, vocab_size=40, max_length=24), old)


def test_layers_of_a_pattern_are_taken_group_by_group():
    config = modern_bert(**SIZE, num_layers=7)
    old = arrays(config, 0)
    _, new, _ = begin(dataclasses.replace(config, num_layers=4), old)
    name = "encoder/layers_1/feed_forward/gate/kernel"
    np.testing.assert_array_equal(new[name], old[name][:1])
