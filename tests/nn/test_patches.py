"""Pictures in front of a stack, and what a deep stack of theirs needs, against formulas and against transformers."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from transformer_jax.interop.published import open_published, write_published
from transformer_jax.interop.tensor_files import read_directory
from transformer_jax.interop.vit import with_preprocessor
from transformer_jax.models.decoder_only import gpt2
from transformer_jax.models.encoder_decoder import base
from transformer_jax.models.encoder_only import VIT_SIZES, vit
from transformer_jax.nn.config import LayerConfig
from transformer_jax.nn.inputs import Patches, PatchInput
from transformer_jax.nn.linear import drop_rows
from transformer_jax.nn.parameters import named_parameters, replace_parameters
from transformer_jax.nn.positions import (
    Learned,
    NoPositions,
    Rotary2D,
    Sinusoidal2D,
    Sizes,
    TokenPositions,
    bicubic,
)
from transformer_jax.nn.stack import Stack

SIZES: dict[str, Any] = {"d_model": 16, "num_heads": 2, "d_ff": 24, "num_layers": 3}
PIXELS = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3)), jnp.uint8)


def make_input(patches, positions):
    return PatchInput(LayerConfig(**SIZES, dropout=0.0, positions=positions), patches, rngs=nnx.Rngs(0))


def test_every_patch_goes_through_one_linear_map_and_stands_behind_class_token_and_registers():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    patches = Patches(4, 8, 3, registers=2, mean=mean, std=std)
    module: Any = make_input(patches, NoPositions())
    x, lengths, ids = module(PIXELS)
    assert x.shape == (2, 1 + 2 + 6, 16) and lengths is None and patches.first == 3
    np.testing.assert_array_equal(ids, np.arange(9)[None])
    normal = (np.asarray(PIXELS) / 255 - mean) / std
    kernel = np.asarray(module.projection.kernel[...]).reshape(-1, 16)
    for number, (row, column) in enumerate(np.ndindex(2, 3)):
        patch = normal[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(2, -1)
        np.testing.assert_allclose(x[:, 3 + number], patch @ kernel, atol=1e-4)
    np.testing.assert_array_equal(x[1, 0], module.class_token[0])
    np.testing.assert_array_equal(x[1, 1:3], module.registers[...])
    np.testing.assert_allclose(module(jnp.asarray(normal, jnp.float32))[0], x, atol=1e-5)
    with pytest.raises(ValueError, match=r"multiples of 4, and 3 channels, not \(2, 8, 9, 3\)"):
        module(PIXELS[:, :, :9])


def test_two_dimensional_sinusoids_are_those_of_column_and_row():
    """As in big_vision's vit.py: written here from the formula."""
    x = make_input(Patches(4, 8, 3), Sinusoidal2D())(PIXELS).vectors
    x -= make_input(Patches(4, 8, 3), NoPositions())(PIXELS).vectors
    scales = 10_000 ** -(np.arange(4) / 3)
    expected = [np.zeros(16)] + [
        np.concatenate([np.sin(column * scales), np.cos(column * scales), np.sin(row * scales), np.cos(row * scales)])
        for row, column in np.ndindex(2, 3)
    ]
    np.testing.assert_allclose(x[0], expected, atol=1e-5)


def test_two_dimensional_rotation_is_that_of_qwen2_vl_and_leaves_the_class_token():
    torch, qwen = pytest.importorskip("torch"), pytest.importorskip("transformers.models.qwen2_vl.modeling_qwen2_vl")
    x, sizes = np.random.default_rng(1).normal(size=(1, 7, 2, 8)).astype(np.float32), Sizes(16, 2, 8, 64, False)
    ours = TokenPositions(Rotary2D(), Rotary2D().grid(2, 3, 1), sizes, {}).rotate(jnp.asarray(x), "query")
    row, column = np.array([*np.ndindex(2, 3)]).T
    angles = np.concatenate([np.outer(one, 10_000.0 ** -np.array([0, 0.5])) for one in (row, column)], axis=1)
    both = torch.tensor(np.concatenate([angles, angles], axis=1), dtype=torch.float32)
    theirs, _ = qwen.apply_rotary_pos_emb_vision(torch.tensor(x[0, 1:]), torch.tensor(x[0, 1:]), both.cos(), both.sin())
    np.testing.assert_allclose(ours[0, 1:], theirs.numpy(), atol=1e-5)
    np.testing.assert_array_equal(ours[0, 0], x[0, 0])


@pytest.mark.parametrize("antialias", [False, True])
def test_learned_positions_of_another_grid_are_resized_as_pytorch_does(antialias):
    torch, kind = pytest.importorskip("torch"), Learned(offset=1, antialias=antialias)
    table = np.random.default_rng(0).normal(size=(1 + 1 + 25, 3)).astype(np.float32)
    for grid in ((2, 3), (7, 9)):
        ours = kind.resized({"table": jnp.asarray(table)}, (5, 5), grid, 1)["table"]
        theirs = torch.nn.functional.interpolate(
            torch.tensor(table[2:].T.reshape(1, 3, 5, 5)), size=grid, mode="bicubic", antialias=antialias
        )
        np.testing.assert_allclose(ours[2:], theirs[0].reshape(3, -1).T, atol=1e-5)
        np.testing.assert_array_equal(ours[:2], table[:2])
    np.testing.assert_array_equal(bicubic(5, 5), np.eye(5))


@pytest.mark.parametrize(("name", "millions"), [("Ti", 5.717), ("S", 22.051), ("B", 86.568), ("L", 304.327)])
def test_vit_has_its_published_sizes(name, millions):
    """Of the models for 224 pixels and 1,000 classes, as timm counts them."""
    config = vit(**VIT_SIZES[name], input=Patches(16, 224, 3), num_outputs=1000)
    assert config.num_parameters() / 1e6 == pytest.approx(millions, abs=0.001)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_picture_is_pooled_from_its_class_token_or_its_patches_alone(pooling):
    config = vit(**SIZES, num_outputs=3, pooling=pooling, input=Patches(4, 8, 3, registers=1))
    model: Any = config.build(0)
    vectors = model.encode(PIXELS).vectors
    pooled = vectors[:, 0] if pooling == "first" else vectors[:, 2:].mean(axis=1)
    np.testing.assert_allclose(model(PIXELS), model.head(pooled), atol=1e-5)


def test_a_picture_encoder_with_a_decoder_of_text():
    model = base(**SIZES, vocab_size=11, input=Patches(4, 8, 3)).build(0)
    target = jnp.ones((2, 5), jnp.int32)
    whole = model(PIXELS, target)
    memory = model.encode(PIXELS)
    logits, _ = model.extend(target, model.start_cache(memory, 5))
    np.testing.assert_allclose(logits[..., :11], whole[..., :11], atol=1e-4)
    assert np.abs(np.asarray(whole[0] - model(PIXELS[::-1], target)[0]))[..., :11].max() > 1e-3


REFUSED = {
    "tokens are in no grid": lambda: gpt2(**SIZES, vocab_size=9, positions=Rotary2D()).build(0),
    "are of patches, and tokens": lambda: gpt2(
        **SIZES, vocab_size=9, pattern=("local", "global"), local_positions=Rotary2D()
    ).build(0),
    "in two dimensions, or none": lambda: vit(
        **SIZES, num_outputs=2, input=Patches(4, 8, 3), pattern=("local", "global"), local_positions=Rotary2D()
    ).build(0),
    "this one reads tokens": lambda: gpt2(**SIZES, vocab_size=9, input=Patches(4, 8, 3)).build(0),
    "image tasks fill in what is 0": lambda: vit(**SIZES, num_outputs=2).build(0),
    "sequence, pooled or none": lambda: vit(**SIZES, input=Patches(4, 8, 3), head="tokens", num_outputs=2).build(0),
    "have 1 or 3 numbers": lambda: vit(**SIZES, input=Patches(4, 8, 3, mean=(0.0, 1.0)), num_outputs=2).build(0),
    "would normalise": lambda: vit(
        **SIZES, input=Patches(4, 8, 3), num_outputs=2, layer_scale=1.0, norm_placement="both"
    ).build(0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_rows_are_dropped_with_their_probability_and_the_mean_stays():
    x = jnp.ones((20_000, 2, 3))
    dropped = np.asarray(drop_rows(x, jnp.float32(0.3), jax.random.key(0)))
    kept = dropped[:, 0, 0] > 0
    assert kept.mean() == pytest.approx(0.7, abs=0.01) and dropped.mean() == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(dropped, np.where(kept, 1 / 0.7, 0)[:, None, None] * np.ones((1, 2, 3)), rtol=1e-6)
    # Rounded once: with a factor of 8 bits, the mean in training would be another than in evaluation.
    rough = jnp.linspace(1, 2, 1000).astype(jnp.bfloat16)[:, None, None]
    once = np.asarray(drop_rows(rough, jnp.float32(0.1), jax.random.key(0)), np.float32)
    expected = np.asarray((rough.astype(jnp.float32) / 0.9).astype(jnp.bfloat16), np.float32)
    np.testing.assert_array_equal(once, np.where(once > 0, expected, 0))


@pytest.mark.parametrize("unroll", [False, True])
def test_stochastic_depth_rises_from_the_first_layer_to_the_last(unroll):
    """Each sub-layer adds a constant 1 to an example that keeps it: their sum tells how often that was."""
    config = LayerConfig(
        **SIZES, dropout=0.0, norm_placement="pre", stochastic_depth=0.8, unroll=unroll, positions=NoPositions()
    )
    stack = Stack(config, rngs=nnx.Rngs(0))
    parameters = {name: jnp.zeros_like(value) for name, value in named_parameters(stack).items()}
    parameters["layers/feed_forward/output/bias"] = jnp.ones((3, 16))
    stack = replace_parameters(stack, parameters)
    rows = 4000
    run = jax.jit(lambda key: stack(jnp.zeros((rows, 1, 16)), key=key, intermediates=True)[2].hidden)
    hidden = np.asarray(run(jax.random.key(1)))[:, :, 0, 0]
    added = np.diff(hidden, axis=0, prepend=np.zeros((1, rows)))
    for layer, rate in enumerate((0, 0.4, 0.8)):
        assert (added[layer] > 0).mean() == pytest.approx(1 - rate, abs=0.03)
        assert added[layer].mean() == pytest.approx(1, abs=0.1)
    together = np.corrcoef(added[1] > 0, added[2] > 0)[0, 1]
    assert abs(together) < 0.1, "layers leave out examples independently of each other"
    assert (stack(jnp.zeros((2, 1, 16)))[0] == 3).all(), "evaluation leaves nothing out"


def test_a_layer_alone_is_left_out_as_the_last_of_many():
    config = LayerConfig(**SIZES, dropout=0.0, norm_placement="pre", stochastic_depth=0.8)
    config = replace(config, num_layers=1)
    stack = Stack(config, rngs=nnx.Rngs(0))
    parameters = {name: jnp.zeros_like(value) for name, value in named_parameters(stack).items()}
    stack = replace_parameters(stack, parameters | {"layers/feed_forward/output/bias": jnp.ones((1, 16))})
    kept = jax.jit(lambda key: stack(jnp.zeros((4000, 1, 16)), key=key)[0])(jax.random.key(1))
    assert (kept[:, 0, 0] > 0).mean() == pytest.approx(0.2, abs=0.03)


def test_layer_drop_leaves_each_layer_out_of_whole_batches():
    config = LayerConfig(**SIZES, dropout=0.0, norm_placement="pre", layer_drop=0.25, positions=NoPositions())
    stack = Stack(config, rngs=nnx.Rngs(0))
    parameters = {name: jnp.zeros_like(value) for name, value in named_parameters(stack).items()}
    parameters["layers/feed_forward/output/bias"] = jnp.ones((3, 16))
    stack = replace_parameters(stack, parameters)
    run = jax.jit(jax.vmap(lambda key: stack(jnp.zeros((2, 1, 16)), key=key, intermediates=True)[2].hidden))
    hidden = np.asarray(run(jax.random.split(jax.random.key(1), 4000)))[..., 0, 0]
    added = np.diff(hidden, axis=1, prepend=np.zeros((4000, 1, 2)))
    assert set(np.unique(added)) == {0, 1} and (added[..., 0] == added[..., 1]).all()
    np.testing.assert_allclose(added[..., 0].mean(axis=0), 0.75, atol=0.03)
    assert abs(np.corrcoef(added[..., 0].T) - np.eye(3)).max() < 0.1, "layers are left out independently"
    assert (stack(jnp.zeros((2, 1, 16)))[0] == 3).all(), "evaluation leaves nothing out"


def test_layer_scale_multiplies_what_every_sub_layer_adds():
    config = LayerConfig(**{**SIZES, "num_layers": 1}, dropout=0.0, norm_placement="pre", layer_scale=0.5)
    stack = Stack(config, rngs=nnx.Rngs(0))
    layer: Any = jax.tree.map(lambda of: of[0], vars(stack)["layers"])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 16)), jnp.float32)
    h = x + 0.5 * layer.self_attention(layer.self_attention_norm(x))[0]
    expected = h + 0.5 * layer.feed_forward(layer.feed_forward_norm(h))
    np.testing.assert_allclose(layer(x)[0], expected, atol=1e-5)
    assert named_parameters(stack)["layers/feed_forward_layer_scale"].shape == (1, 16)


def test_the_gradient_of_a_vit_is_that_of_transformers(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3)
    theirs = transformers.ViTForImageClassification(config)
    theirs.save_pretrained(tmp_path / "theirs")
    published = open_published(tmp_path / "theirs")
    pixels = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    gradient = jax.grad(lambda model: jnp.sum(jnp.sin(model(jnp.asarray(pixels)))))(published.model())
    write_published(tmp_path / "ours", published.config, named_parameters(gradient))
    torch.sin(theirs(torch.tensor(pixels.transpose(0, 3, 1, 2))).logits).sum().backward()
    for parameter in theirs.parameters():
        parameter.data = parameter.grad
    theirs.save_pretrained(tmp_path / "theirs")
    ours, right = read_directory(tmp_path / "ours"), read_directory(tmp_path / "theirs")
    assert ours.keys() == right.keys()
    for name in right:
        np.testing.assert_allclose(ours[name], right[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    "values",
    [{}, {"do_normalize": False}, {"rescale_factor": 1 / 127.5}, {"do_rescale": False, "image_mean": [90, 100, 110]}],
)
def test_pixels_are_normalised_as_a_published_processor_does(tmp_path, values):
    transformers = pytest.importorskip("transformers")
    values = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "do_resize": False} | values
    processor = transformers.ViTImageProcessor(**values)
    processor.save_pretrained(tmp_path)
    config = with_preprocessor(vit(**SIZES, input=Patches(4, 8, 3)), tmp_path)
    ours = make_input(config.input, NoPositions()).normalised(PIXELS)
    theirs = processor(list(np.asarray(PIXELS)), input_data_format="channels_last")["pixel_values"]
    np.testing.assert_allclose(ours, np.stack(theirs).transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-4)


def test_dinov2_gives_the_features_that_were_recorded():
    """In the directory TRANSFORMER_JAX_MODELS, or `shared/models` beside; weights are float16, features float32."""
    beside = Path(__file__).resolve().parents[3] / "shared"
    models = Path(os.environ.get("TRANSFORMER_JAX_MODELS", beside / "models"))
    pictures = Path(os.environ.get("TRANSFORMER_JAX_DATA", beside / "data")) / "images" / "cifar10" / "test.npz"
    if not models.is_dir() or not pictures.is_file():
        pytest.skip(f"no published models at {models}, or no pictures at {pictures}")
    model = open_published(models / "dinov2-small").model()
    for item in json.loads((models / "dinov2-small" / "expected.json").read_text())["items"]:
        with np.load(pictures) as file:
            picture = Image.fromarray(file["images"][int(item["image"].split("[")[1].rstrip("]"))])
        pixels = np.asarray(picture.resize((item["size"], item["size"]), Image.Resampling.BICUBIC))
        vectors = model.encode(jnp.asarray(pixels)[None]).vectors
        np.testing.assert_allclose(vectors[0, 0], item["last_hidden_cls"], atol=2e-2)
        np.testing.assert_allclose(vectors[0, 1, :8], item["last_hidden_patch_0_first8"], atol=2e-2)
