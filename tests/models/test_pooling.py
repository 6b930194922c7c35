"""What the predictions for a picture see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.models.encoder_only import vit
from transformer_jax.nn.inputs import Patches
from transformer_jax.nn.parameters import named_parameters

SMALL = {"d_model": 16, "num_heads": 4, "d_ff": 24, "num_layers": 1, "num_outputs": 3}
PIXELS = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)

PATCHES = Patches(4, 8, 3, registers=1)


def model_of(pooling, patches=PATCHES, **changes):
    model = vit(**SMALL, pooling=pooling, input=patches, **changes).build(0)
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), model)


def test_the_first_and_the_mean_of_patches():
    for pooling in ("first", "mean", "first_and_mean"):
        model = model_of(pooling)
        vectors = np.asarray(model.encode(PIXELS).vectors)
        first, mean = vectors[:, 0], vectors[:, 2:].mean(axis=1)
        seen = {"first": first, "mean": mean, "first_and_mean": np.concatenate([first, mean], axis=1)}[pooling]
        expected = seen @ np.asarray(model.head.kernel[...]) + np.asarray(model.head.bias[...])
        np.testing.assert_allclose(model(PIXELS), expected, atol=1e-5)


def test_attention_pooling_is_that_of_siglip():
    torch, siglip = pytest.importorskip("torch"), pytest.importorskip("transformers.models.siglip.modeling_siglip")
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24, "hidden_act": "gelu"}
    theirs = siglip.SiglipMultiheadAttentionPoolingHead(siglip.SiglipVisionConfig(**sizes, layer_norm_eps=1e-6))
    model = model_of("attention", Patches(4, 8, 3, class_token=False), norm_epsilon=1e-6)
    ours = {name: np.asarray(value) for name, value in named_parameters(model.pooler.attention).items()}
    maps = [ours[f"attention/{name}/kernel"].reshape(16, 16).T for name in ("query", "key", "value")]
    values = {
        "probe": ours["query"][None],
        "attention.in_proj_weight": np.concatenate(maps),
        "attention.in_proj_bias": np.concatenate(
            [ours[f"attention/{name}/bias"].reshape(-1) for name in ("query", "key", "value")]
        ),
        "attention.out_proj.weight": ours["attention/output/kernel"].reshape(16, 16).T,
        "attention.out_proj.bias": ours["attention/output/bias"],
        "layernorm.weight": ours["norm/scale"],
        "layernorm.bias": ours["norm/bias"],
        "mlp.fc1.weight": ours["feed_forward/input/kernel"].T,
        "mlp.fc1.bias": ours["feed_forward/input/bias"],
        "mlp.fc2.weight": ours["feed_forward/output/kernel"].T,
        "mlp.fc2.bias": ours["feed_forward/output/bias"],
    }
    theirs.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    vectors = model.encode(PIXELS).vectors
    expected = theirs.eval()(torch.tensor(np.asarray(vectors))).detach().numpy()
    np.testing.assert_allclose(model.pooler.attention(vectors), expected, atol=1e-5)
    np.testing.assert_allclose(model(PIXELS), model.head(jnp.asarray(expected)), atol=1e-5)


REFUSED = {
    "is first, mean, first_and_mean, attention, distilled, not 'last'": {"pooling": "last"},
    "first needs model.input.class_token": {"input": Patches(4, 8, 3, class_token=False)},
    "distilled needs model.input.class_token, of DeiT both": {"pooling": "distilled", "input": Patches(4, 8, 3)},
    "first_and_mean needs model.pooler False": {"pooling": "first_and_mean", "pooler": True},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_pooled_is_refused(message):
    with pytest.raises(ValueError, match=message):
        vit(**SMALL, **{"input": Patches(4, 8, 3), **REFUSED[message]}).build(0)
