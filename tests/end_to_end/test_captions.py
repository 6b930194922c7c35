"""An encoder of pictures and a decoder of text: the experiment that shows the path whole."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from transformer_jax import load
from transformer_jax.cli.main import main
from transformer_jax.runs.metrics import read_metrics
from transformer_jax.runs.run import Run

EXPERIMENT = Path(__file__).resolve().parents[2] / "experiments" / "vision" / "captions.py"
SMALL = {"data.source.count": 120, "data.tokens-per-batch": 512, "data.max-length": 32, "task.decoding.beam-size": 1}
SMALL |= {"model.num-layers": 1, "model.num-decoder-layers": 1, "optimizer.warmup-steps": 2, "mesh.data": 1}
SMALL |= {"train.steps": 6, "train.save-every": 6, "train.log-every": 1, "train.validation-examples": 0}
OPTIONS = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]


def train(place):
    assert main(["train", str(EXPERIMENT), "--workdir", str(place), *OPTIONS]) == 0
    return [row["loss"] for row in read_metrics(place)]


@pytest.mark.slow
def test_captions_are_learnt_predicted_and_exported(tmp_path, capsys):
    straight = train(tmp_path / "straight")
    assert straight[-1] < straight[0] - 0.3

    run = Run.open(tmp_path / "straight")
    example = next(iter(run.experiment.data.source.examples("test")))
    assert example["image"].shape == (16, 16) and example["caption"].split()[-2] in ("of", "above")
    Image.fromarray(example["image"]).save(tmp_path / "one.png")
    (tmp_path / "files.txt").write_text(f"{tmp_path / 'one.png'}\n{tmp_path / 'files.txt'}\n")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "straight"), "--input", str(tmp_path / "files.txt")]) == 0
    captured = capsys.readouterr()
    captioner = load(tmp_path / "straight")
    assert captured.out == captioner.describe([example["image"]])[0] + "\n\n"
    vectors = captioner.model.encode(jax.numpy.stack([*captioner.pixels([example["image"]])])).vectors
    np.testing.assert_allclose(captioner.embed([example["image"]]), vectors.mean(axis=1), atol=1e-5)
    assert "line 2 is skipped" in captured.err

    scored = ["--scores", "ter", "bleu", "--json", "--task.bootstrap", "10"]
    assert main(["compare", *2 * [str(tmp_path / "straight")], "--resamples", "10", *scored]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert compared["examples"] == 12 and compared["scores"]["ter"]["p_value"] == 1
    assert run.experiment.task.longest(run.experiment.data) == 32, "which decides the largest batch of a plan"
    assert replace(run.experiment.task, scores=("ter",)).metrics() == {"loss": "lower", "ter": "lower"}

    assert main(["export", str(tmp_path / "straight"), str(tmp_path / "programs"), "--stablehlo", "16"]) == 0
    parameters = load_file(tmp_path / "programs" / "model.safetensors")
    program = jax.export.deserialize(bytearray((tmp_path / "programs" / "forward.stablehlo").read_bytes()))
    pixels, target = example["image"][None, :, :, None], np.arange(16, dtype=np.int32)[None]
    logits = captioner.model(*map(jax.numpy.asarray, (pixels, target)))[..., : captioner.model.embedding.vocab_size]
    np.testing.assert_allclose(program.call(parameters, pixels, target), logits, atol=1e-5)
