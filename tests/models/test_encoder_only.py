"""What an encoder-only model may see, and the sizes of its presets."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.models.encoder_only import BERT_SIZES, HEADS, EncoderOnlyConfig, bert, modern_bert
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.nn.positions import Position

SMALL: dict[str, Any] = {"d_model": 16, "num_heads": 4, "d_ff": 24, "num_layers": 4, "vocab_size": 21}
TOKENS = np.random.default_rng(0).integers(3, 21, (2, 9)).astype(np.int32)
FORMS = {
    "bert": bert(**SMALL, max_length=32, dropout=0.0, attention_dropout=0.0),
    "modern_bert": modern_bert(**SMALL, window=2),
    **{
        name: EncoderOnlyConfig(**SMALL, positions=kind(), dropout=0.0, max_length=32)
        for name, kind in Position.kinds.items()
        if not kind.of_patches
    },
}


@pytest.fixture(params=FORMS)
def model(request, randomised):
    return randomised(FORMS[request.param].build(0))


def test_packed_and_padded_texts_give_what_they_give_alone(model):
    lengths = np.array([5, 9])
    alone = jnp.concatenate([model(jnp.asarray(TOKENS[i : i + 1, :n]))[0] for i, n in enumerate(lengths)])
    real = np.arange(9)[None] < lengths[:, None]
    packed = model(
        jnp.asarray(TOKENS[real][None]),
        segments=jnp.asarray(np.repeat([1, 2], lengths)[None]),
        positions=jnp.asarray(np.concatenate([np.arange(n) for n in lengths])[None]),
    )
    np.testing.assert_allclose(packed[0], alone, rtol=1e-4, atol=2e-5)
    padded = model(jnp.asarray(np.where(real, TOKENS, 20)), lengths=jnp.asarray(lengths))
    np.testing.assert_allclose(np.asarray(padded)[real], alone, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("head", HEADS)
def test_parameter_count_is_the_closed_formula_with_every_head(head):
    for make in (bert, modern_bert):
        config = make(**SMALL, head=head, num_outputs=3)
        count = sum(leaf.size for leaf in named_parameters(jax.eval_shape(lambda c=config: c.build(0))).values())
        with_bias = head in ("language_model", "pretraining")
        assert config.num_parameters() == count - (24 - 21) * (16 + with_bias)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("tiny", 4.4), ("mini", 11.3), ("small", 29.1), ("medium", 41.7), ("base", 110.1), ("large", 336.2)],
)
def test_the_bert_family_has_its_published_sizes(name, millions):
    config = bert(**BERT_SIZES[name], vocab_size=30_522, head="pretraining")
    assert config.num_parameters() / 1e6 == pytest.approx(millions, rel=0.01)
