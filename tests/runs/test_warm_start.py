import dataclasses
import re
from typing import Any

import jax
import numpy as np
import pytest

from transformer_jax.models.decoder_only import gpt2
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.models.encoder_only import bert, modern_bert
from transformer_jax.nn.layer_names import layer_numbers
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.runs.warm_start import fitting, table, with_copies

SIZE: dict[str, Any] = {"d_model": 16, "num_heads": 2, "d_ff": 32, "vocab_size": 40}
BERT = bert(**SIZE, num_layers=5, max_length=24)


def arrays(config, seed):
    return {name: np.asarray(value) for name, value in named_parameters(config.build(seed)).items()}


def begin(config, old):
    """The parameters of a fresh model, those that it begins with, and the table."""
    fresh = named_parameters(config.build(1))
    copies = fitting(config, old)
    return fresh, jax.tree.map(np.asarray, with_copies(fresh, old, copies)), table(config, old, copies)


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
    for name in ("encoder/layers/feed_forward/input/kernel", "encoder_input/positions/table", "embedding/table"):
        np.testing.assert_array_equal(new[name], old[name][: len(new[name])])
    assert re.search(r"encoder/layers/feed_forward/input/kernel +3x16x32 .*shares with \(5, 16, 32\)", table)
    fresh, new, _ = begin(larger, old)
    for name in ("encoder/layers/feed_forward/input/kernel", "encoder_input/positions/table", "embedding/table"):
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
    assert kinds["head/transform/kernel"] == "left" and "encoder_input/token_types" not in kinds


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
        fitting(gpt2(d_model=32, num_heads=2, d_ff=64, num_layers=1, vocab_size=40, max_length=24), old)


def numbered(config):
    """Parameters in which everything of a layer is its number."""
    old = {name: np.full_like(value, -1) for name, value in arrays(config, 0).items()}
    for name, numbers in layer_numbers({name: value.shape for name, value in old.items()}).items():
        old[name] += 1 + numbers.reshape(numbers.shape + (1,) * (old[name].ndim - numbers.ndim))
    return old


@pytest.mark.parametrize(
    ("theirs", "mine"),
    [
        (modern_bert(**SIZE, num_layers=9), modern_bert(**SIZE, num_layers=6)),
        (modern_bert(**SIZE, num_layers=6), modern_bert(**SIZE, num_layers=9)),
        (bert(**SIZE, num_layers=6), bert(**SIZE, num_layers=5, pattern=("global", "local"))),
        (bert(**SIZE, num_layers=3, pattern=("local", "global")), bert(**SIZE, num_layers=4)),
    ],
)
def test_layer_n_is_taken_from_layer_n_however_layers_are_grouped(theirs, mine):
    _, new, text = begin(mine, numbered(theirs))
    numbers = layer_numbers({name: value.shape for name, value in new.items()})
    seen = set()
    for name, of in numbers.items():
        if name.endswith("feed_forward/input/kernel"):
            for number, layer in zip(of.reshape(-1), new[name].reshape(of.size, -1), strict=True):
                expected = {float(number)} if number < theirs.num_layers else set(layer.tolist()) - {-1.0}
                assert set(layer.tolist()) == expected and (number >= theirs.num_layers) == (len(expected) > 1)
                seen.add(int(number))
    assert seen == set(range(mine.num_layers))
    assert "from encoder/" in text and re.search(r"taken in all: \d+\.\d %", text)


def test_a_model_of_another_size_is_refused_even_if_a_bias_fits():
    with pytest.raises(ValueError, match="next to nothing fits"):
        fitting(bert(**SIZE | {"d_model": 32}, num_layers=2, max_length=24), arrays(BERT, 0))
