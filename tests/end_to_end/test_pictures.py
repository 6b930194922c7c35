"""A run on files of pictures: stopped and gone on, on several devices, planned, and used from the command line."""

import io
import json
import re
from typing import Any

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from transformer_jax import load
from transformer_jax.analysis.picture_attention import overlaid
from transformer_jax.analysis.plan import make_plan, report, topology
from transformer_jax.cli.main import main
from transformer_jax.runs.experiment_file import load_experiment_file
from transformer_jax.runs.metrics import read_metrics
from transformer_jax.runs.run import Run
from transformer_jax.tasks.image_classification import ImageClassification

EXPERIMENT = """
from transformer_jax import (
    Augmentation, DataConfig, Experiment, ImageClassification, MeshConfig, OptimizerConfig, Patches, PictureFolders,
    TrainConfig, vit,
)


def experiment():
    return Experiment(
        task=ImageClassification(image_size=8, augmentation=Augmentation(shift=1, flip=True, mixup=0.2)),
        data=DataConfig(source=PictureFolders(validation=("validation",)), tokens_per_batch=16),
        model=vit(d_model=16, num_heads=2, d_ff=32, num_layers=2, dropout=0.1, stochastic_depth=0.2, input=Patches(4)),
        optimizer=OptimizerConfig(name="adamw", schedule="cosine", learning_rate=1e-2, warmup_steps=5),
        train=TrainConfig(steps=12, log_every=1, evaluate_every=4, save_every=4, best="validation_accuracy"),
        mesh=MeshConfig(data=1),
    )
"""
TIMINGS = ("tokens_per_second", "peak_memory", "memory")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Dark and bright pictures, one of them damaged, and the experiment's file."""
    place, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 40), ("validation", 9)):
        for number in range(count):
            folder = place / split / ("bright" if number % 2 else "dark")
            folder.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(100 * (number % 2), 100 + 100 * (number % 2), (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    (place / "train" / "dark" / "broken.png").write_bytes(b"nothing")
    (place / "pictures.py").write_text(EXPERIMENT)
    return place


def train(place, name, *options):
    arguments = ["--data.source.directory", str(place), *options]
    assert main(["train", str(place / "pictures.py"), "--workdir", str(place / name), *arguments]) == 0
    rows = read_metrics(place / name)
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]


@pytest.fixture(scope="module")
def straight(place):
    return train(place, "straight")


def test_a_run_learns_and_says_what_it_left_out(straight, place, capsys):
    assert straight[-1]["validation_accuracy"] > 85 and straight[-1]["loss"] < straight[0]["loss"]
    train(place, "again", "--train.stop-after", "1")
    assert "train: 40 examples, 2 labels; skipped 1 (1 undecodable, the first " in capsys.readouterr().out


@pytest.mark.slow
def test_stop_and_go_on_equals_straight(straight, place):
    train(place, "stopped", "--train.stop-after", "5")
    assert train(place, "stopped") == straight
    one, other = (Run.open(place / name).model_of([12]) for name in ("straight", "stopped"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")
def test_a_mesh_gives_the_same_losses(straight, place):
    meshed = train(place, "meshed", "--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2")
    losses = ([row["loss"] for row in rows] for rows in (meshed, straight))
    np.testing.assert_allclose(*losses, rtol=1e-3)  # Adam magnifies the rounding errors of the first gradients


def test_files_are_classified_from_the_command_line_and_from_python(straight, place, tmp_path, capsys):
    files = [str(place / "validation" / name) for name in ("dark/0.png", "bright/1.png", "dark/broken.png")]
    (tmp_path / "files.txt").write_text("\n".join(files))
    assert main(["predict", str(place / "straight"), "--input", str(tmp_path / "files.txt")]) == 0
    captured = capsys.readouterr()
    assert (
        captured.out == "dark\nbright\n\n"
        and f"line 3 is skipped: {files[2]} cannot be read: No such file" in captured.err
    )
    predictor = load(place / "straight")
    assert predictor.classify(files[:2]) == ["dark", "bright"]
    white = io.BytesIO()
    Image.new("RGB", (30, 20), "white").save(white, "JPEG")
    assert predictor.classify([white.getvalue(), np.zeros((8, 8), np.uint8)]) == ["bright", "dark"]


def test_attention_is_drawn_over_a_picture(straight, place, tmp_path, capsys):
    file = str(place / "validation" / "bright" / "1.png")
    assert main(["attention", str(place / "straight"), file, "--output", str(tmp_path / "maps")]) == 0
    png = tmp_path / "maps" / "attention.png"
    assert capsys.readouterr().out == f"{file} -> bright\n{png}\n"
    drawn = np.asarray(Image.open(png).convert("RGB")).astype(int)
    assert (drawn[..., 0] - drawn[..., 2] > 60).any(), "the red of what is looked at"
    assert main(["attention", str(place / "straight"), str(place / "pictures.py")]) == 2
    assert "is no picture" in capsys.readouterr().err

    picture = np.full((4, 4, 1), 0.5)
    map_ = overlaid(picture, np.array([[0.0, 0.1], [0.2, 0.4]]))
    red = map_[..., 0] - map_[..., 2]
    np.testing.assert_allclose(red[::2, ::2] / red[2, 2], [[0, 0.25], [0.5, 1]], atol=1e-6)


def test_a_run_is_exported_to_a_vit_that_is_loaded_without_a_tokenizer(straight, place, tmp_path):
    assert main(["export", str(place / "straight"), str(tmp_path / "vit")]) == 0
    values = json.loads((tmp_path / "vit" / "preprocessor_config.json").read_text())
    assert values["image_mean"] == [0.5] * 3 and values["size"] == {"height": 8, "width": 8}
    files = [str(path) for path in sorted((place / "validation").glob("*/*.png"))]
    published, run = load(tmp_path / "vit"), load(place / "straight")
    assert published.classify(files) == run.classify(files)
    finer = ("--initialize-from", str(tmp_path / "vit"), "--train.steps", "4", "--task.image-size", "12")
    tuned = train(place, "tuned", *finer)  # its table of positions is interpolated
    assert tuned[0]["loss"] < straight[0]["loss"] and Run.open(place / "tuned").experiment.model.input.image_size == 8
    np.testing.assert_array_equal(published.outputs(files), run.outputs(files))


def test_a_published_model_of_pictures_becomes_a_run_and_goes_back(straight, place, tmp_path):
    assert main(["export", str(place / "straight"), str(tmp_path / "vit")]) == 0
    assert main(["import", str(tmp_path / "vit"), str(tmp_path / "run")]) == 0
    run = Run.open(tmp_path / "run")
    labels: Any = run.tokenizers["label"]
    assert run.experiment.task == ImageClassification(image_size=8) and labels.names == ("bright", "dark")
    options = ("--data.source.directory", str(place), "--split", "validation")
    assert main(["evaluate", str(tmp_path / "run"), "--data.source.validation", "validation", *options]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "again")]) == 0
    names = ("model.safetensors", "config.json", "preprocessor_config.json")
    assert all((tmp_path / "vit" / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


def test_a_program_takes_pixels_alone(straight, place, tmp_path):
    assert main(["export", str(place / "straight"), str(tmp_path / "programs"), "--stablehlo", "8"]) == 0
    program = jax.export.deserialize(bytearray((tmp_path / "programs" / "forward.stablehlo").read_bytes()))
    parameters = load_file(tmp_path / "programs" / "model.safetensors")
    predictor = load(place / "straight")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_allclose(program.call(parameters, pixels), predictor.outputs(list(pixels)), atol=1e-5)
    assert json.loads((tmp_path / "programs" / "programs.json").read_text())["label"] == ["bright", "dark"]


def test_a_plan_knows_pictures(place):
    experiment = load_experiment_file(place / "pictures.py")
    devices, _ = topology("cpu:1")
    plan = make_plan(experiment, devices)
    assert (plan.rows, plan.tokens) == (16, 16)
    pixels, label, example = 16 * 8 * 8 * 3, 16 * 4, 16 * 4
    assert plan.batch_bytes == pixels + label + example
    assert re.search(r"largest batch: 16 rows\n", report(plan, None, utilisation=0.4))


def test_the_saved_experiment_says_what_was_filled_in(straight, place):
    model = json.loads((place / "straight" / "experiment.json").read_text())["model"]
    assert (model["input"]["image_size"], model["input"]["channels"], model["num_outputs"]) == (8, 3, 2)


def test_a_published_model_without_labels_becomes_a_run_that_embeds(place, tmp_path, capsys):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "image_size": 8, "patch_size": 4}
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(tmp_path / "dino")
    assert main(["import", str(tmp_path / "dino"), str(tmp_path / "run")]) == 0
    file = str(next((place / "validation").glob("*/*.png")))
    assert np.shape(load(tmp_path / "run").embed([file])) == (1, 16)
    assert main(["predict", str(tmp_path / "run"), file]) == 2
    assert "this model has no labels; use embed" in capsys.readouterr().err
