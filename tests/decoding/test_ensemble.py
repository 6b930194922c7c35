"""An ensemble is one model whose probabilities are the mean of its members'."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.data.tokenizers import Bytes
from transformer_jax.decoding.ensemble import Ensemble
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.tasks.translation import Decoding, Translator

CONFIG = EncoderDecoderConfig(
    d_model=16, num_heads=2, d_ff=32, num_layers=1, dropout=0.0, vocab_size=260, source_vocab_size=260
)
# Another width and another number of rows that pad the vocabulary.
OTHER = dataclasses.replace(CONFIG, d_model=8, d_ff=16, vocab_multiple=64)
LINES = ["a", "some words", "forty-two"]


@pytest.fixture(scope="module")
def ensemble():
    return Ensemble((CONFIG.build(0), CONFIG.build(1), OTHER.build(2)))


def test_probabilities_are_the_mean_of_the_members(ensemble):
    tokens = np.random.default_rng(0).integers(4, 260, (2, 2, 5), dtype=np.int32)
    forward = jax.jit(lambda model: model(*map(jnp.asarray, tokens)))
    found = jax.nn.softmax(forward(ensemble))
    members = [np.asarray(jax.nn.softmax(forward(member)))[..., :260] for member in ensemble.members]
    np.testing.assert_allclose(found, np.mean(members, axis=0), rtol=1e-5)
    assert not np.allclose(found, members[0], rtol=0.1)


def test_a_search_finds_what_the_mean_of_probabilities_gives(ensemble):
    tokenizer = Bytes().train([])
    translator = Translator(ensemble, tokenizer, tokenizer, Decoding(beam_size=3, extra_length=4), max_length=20)
    checked = 0
    for line, (best, *_) in zip(LINES, translator.search(LINES), strict=True):
        if "\ufffd" not in best.text:
            (recomputed,) = translator.score([line], [best.text])
            assert best.log_prob == pytest.approx(recomputed, rel=1e-4)
            checked += 1
    assert checked
