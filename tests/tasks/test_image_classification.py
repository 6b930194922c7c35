"""The loss of pictures, their random changes, and the predictor that reads files."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from transformer_jax.data.augmentation import Augmentation
from transformer_jax.data.config import DataConfig
from transformer_jax.data.labels import Labels
from transformer_jax.data.pictures import Digits
from transformer_jax.models.encoder_only import bert, vit
from transformer_jax.nn.inputs import Patches
from transformer_jax.tasks.image_classification import ImageClassification, mixed

TASK = ImageClassification(image_size=8)
DATA = DataConfig(source=Digits(), tokens_per_batch=4)
LABELS = Labels(names=("a", "b", "c", "d", "e", "f"))
RANDOM = np.random.default_rng(0)
BATCH: Any = {
    "image": RANDOM.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8),
    "label": RANDOM.integers(0, 6, 8).astype(np.int32),
    "example": np.array([5, 0, 900, 3, 8, 7, 2, -1], np.int32),
}
# Not with a head of zeros, for which all pictures are alike.
VIT = vit(d_model=16, num_heads=2, d_ff=24, num_layers=2, input=Patches(4), initializer="glorot")
MODEL: Any = TASK.resolve(VIT, DATA, {"label": 6}).build(0)


def log_softmax(logits):
    return np.asarray(jax.nn.log_softmax(logits))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_and_scores_are_those_of_real_rows(smoothing):
    task, logs = replace(TASK, label_smoothing=smoothing), log_softmax(MODEL(jnp.asarray(BATCH["image"])))
    sums = jax.jit(lambda model, batch: task.loss(model, batch, None))(MODEL, BATCH)
    real, label = BATCH["example"] >= 0, BATCH["label"]
    nll = -logs[np.arange(8), label]
    expected = {
        "nll": nll,
        "loss": (1 - smoothing) * nll - smoothing * logs.mean(axis=1),
        "accuracy": logs.argmax(axis=1) == label,
        "top_5": logs.argmin(axis=1) != label,
    }
    assert sums.keys() == expected.keys()
    for name, (total, weight) in sums.items():
        assert weight == 7 and float(total) == pytest.approx(expected[name][real].sum(), rel=1e-5)
    metrics = task.loss_metrics({name: (float(total), 7.0) for name, (total, _) in sums.items()}, [])
    assert metrics["accuracy"] == pytest.approx(100 * expected["accuracy"][real].mean())
    assert metrics["loss"] == pytest.approx(nll[real].mean())


@pytest.mark.parametrize(
    "how", [Augmentation(mixup=0.4), Augmentation(cutmix=0.4), Augmentation(mixup=2.0, cutmix=0.4)]
)
def test_a_picture_is_mixed_with_the_one_before_or_has_a_rectangle_of_it(how):
    pixels, real = jnp.tile(jnp.arange(256.0)[:, None, None, None], (1, 16, 16, 1)), jnp.ones(256).at[255].set(0)
    pictures, share = (
        np.asarray(one) for one in jax.jit(mixed, static_argnums=0)(how, pixels, real, jax.random.key(0))
    )
    before = np.roll(np.arange(256), 1)
    np.testing.assert_array_equal(share[[0, 255]], 1, "the last row is empty, and the first one's partner")
    np.testing.assert_array_equal(pictures[0], 0)
    expected = share * np.arange(256) + (1 - share) * before
    np.testing.assert_allclose(pictures.mean(axis=(1, 2, 3)), expected, rtol=1e-5)
    cut = np.isin(pictures[1:], np.stack([np.arange(256), before])).all(axis=(1, 2, 3))
    assert (0.35 < cut.mean() < 0.65) if how.mixup and how.cutmix else cut.all() == bool(how.cutmix)
    for picture, number in zip(pictures[1:][cut, ..., 0], np.arange(1, 256)[cut], strict=True):
        other = picture != number
        assert (other == other.any(axis=1)[:, None] & other.any(axis=0)[None]).all(), "a rectangle"
    if not how.cutmix:
        assert share[1:255].var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.2), "the variance of Beta(a, a)"


def test_the_rectangle_of_cutmix_has_its_share_of_the_area_and_stands_anywhere():
    """Its sides are r times those of the picture and its centre is uniform (Yun et al. 2019, equation 2).

    A centre nearer to an edge than r/2 loses r^2/4 of a side on average, and with Beta(1, 1) r^2 is uniform.
    """
    rows, pixels = 8192, jnp.zeros((8192, 8, 8, 1)).at[::2].set(1.0)
    pictures, share = jax.jit(mixed, static_argnums=0)(
        Augmentation(cutmix=1.0), pixels, jnp.ones(rows), jax.random.key(0)
    )
    # E (r - r^2/4)^2 = E r^2 - E r^3 / 2 + E r^4 / 16
    assert 1 - float(share.mean()) == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.01)
    cut = np.abs(np.asarray(pictures - pixels))[..., 0].mean(axis=0)
    np.testing.assert_allclose(cut, cut[::-1, ::-1], atol=0.03, err_msg="as often on the left as on the right")
    np.testing.assert_allclose(cut, cut.T, atol=0.03)
    assert cut[3:5, 3:5].mean() > cut[0, 0] + 0.2


def test_mixed_pictures_have_dropout_as_others_have():
    task, key = replace(TASK, augmentation=Augmentation(mixup=1.0)), jax.random.key(0)
    dropped: Any = task.resolve(replace(VIT, dropout=0.5), DATA, {"label": 6}).build(0)
    loss = jax.jit(lambda model: task.loss(model, BATCH, key)["loss"][0])
    assert abs(float(loss(dropped)) - float(loss(MODEL))) > 0.01, "the same parameters"


def test_mixed_pictures_have_the_mixed_loss_of_both_labels_in_training_alone():
    task, key = replace(TASK, augmentation=Augmentation(mixup=1.0)), jax.random.key(0)
    real, label = jnp.asarray(BATCH["example"] >= 0, jnp.float32), BATCH["label"]
    pixels = jnp.asarray(BATCH["image"] / 127.5 - 1, jnp.float32)
    pixels, share = mixed(task.augmentation, pixels, real, jax.random.split(key)[0])
    logs, share = log_softmax(MODEL(pixels)), np.asarray(share)
    losses = -(share * logs[np.arange(8), label] + (1 - share) * logs[np.arange(8), np.roll(label, 1)])
    total, weight = jax.jit(task.loss)(MODEL, BATCH, key)["loss"]
    assert weight == 7 and float(total) == pytest.approx(losses[:7].sum(), rel=1e-4)
    plain = TASK.loss(MODEL, BATCH, None)["loss"][0]
    assert float(task.loss(MODEL, BATCH, None)["loss"][0]) == pytest.approx(float(plain), rel=1e-6)


def test_attention_is_that_of_the_class_token_and_its_rollout_a_product():
    predictor = TASK.predictor(MODEL, {"label": LABELS}, DATA)
    found = predictor.attention(BATCH["image"][0])
    encoded = MODEL.encode(jnp.asarray(BATCH["image"][:1]), intermediates=True)
    weights = np.asarray(encoded.intermediates.attention["self_attention"])[:, 0]
    np.testing.assert_allclose(found.weights, weights[:, :, 0, 1:].reshape(2, 2, 2, 2), atol=1e-6)
    one, other = ((layer.mean(axis=0) + np.eye(5)) / 2 for layer in weights)
    np.testing.assert_allclose(found.rollout[1], (other @ one)[0, 1:].reshape(2, 2), atol=1e-6)
    mean = TASK.resolve(replace(VIT, pooling="mean", input=Patches(4, class_token=False)), DATA, {"label": 6}).build(0)
    looks = TASK.predictor(mean, {"label": LABELS}, DATA).attention(BATCH["image"][0])
    np.testing.assert_allclose(looks.weights.sum(axis=(2, 3)), 1, atol=1e-5)


def test_the_predictor_reads_files_bytes_and_arrays(tmp_path):
    predictor = TASK.predictor(MODEL, {"label": LABELS}, DATA)
    files = []
    for number, pixels in enumerate(BATCH["image"]):
        files.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(pixels).save(files[-1])
    expected = [LABELS.names[best] for best in np.asarray(MODEL(jnp.asarray(BATCH["image"]))).argmax(axis=1)]
    assert predictor.predict(files) == predictor.classify(list(BATCH["image"])) == expected
    with open(files[0], "rb") as file:
        (probabilities,) = predictor.probabilities([file.read()])
    assert next(iter(probabilities)) == expected[0] and sum(probabilities.values()) == pytest.approx(1)
    vectors = predictor.embed(files)
    np.testing.assert_allclose(MODEL.head(jnp.asarray(vectors)), predictor.outputs(files), atol=1e-5)
    assert predictor.classify([]) == []
    (tmp_path / "0.png").write_text("no picture")
    missing = "nowhere.png cannot be read: No such file or directory"
    for wrong, message in (
        (files, f"line 1: {files[0]} is no picture: not one of BMP, "),
        ([files[1], "nowhere.png"], f"line 2: {missing}"),
        (["nowhere.png"], missing),
        ([b"nothing"], "it is no picture: not one of "),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            predictor.predict(wrong)
    with pytest.raises(TypeError, match="a list of pictures"):
        predictor.classify(files[0])


REFUSED = {
    "needs a model of pictures": bert(),
    "follow from task.channels, 3": replace(VIT, input=Patches(4, channels=1)),
    "3 does not divide task.image_size 8": replace(VIT, input=Patches(3)),
    "num_outputs follows from the data": replace(VIT, num_outputs=7),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_model_that_does_not_fit_is_refused(message):
    with pytest.raises(ValueError, match=message):
        TASK.resolve(REFUSED[message], DATA, {"label": 6})


def test_pictures_of_another_size_than_the_table_of_positions():
    config: Any = replace(TASK, image_size=12).resolve(replace(VIT, input=Patches(4, image_size=8)), DATA, {"label": 6})
    assert (config.input.image_size, config.input.channels) == (8, 3)
    assert config.build(0)(jnp.zeros((1, 12, 12, 3), jnp.uint8)).shape == (1, 6)
