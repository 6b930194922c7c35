"""A run on recordings: stopped and gone on, on several devices, planned, and used from the command line."""

import jax
import numpy as np
import pytest

from transformer_jax import load
from transformer_jax.analysis.plan import make_plan, topology
from transformer_jax.cli.main import main
from transformer_jax.runs.experiment_file import load_experiment_file
from transformer_jax.runs.metrics import read_metrics
from transformer_jax.runs.run import Run

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

EXPERIMENT = """
from transformer_jax import (
    AudioAugmentation, AudioClassification, AudioFolders, DataConfig, EncoderOnlyConfig, Experiment, Frames, LogMel,
    MeshConfig, OptimizerConfig, TrainConfig,
)


def experiment():
    return Experiment(
        task=AudioClassification(
            log_mel=LogMel(num_mels=16, sample_rate=8_000),
            augmentation=AudioAugmentation(speed=0.1, time_masks=1, time_width=5, frequency_masks=1, frequency_width=3),
        ),
        data=DataConfig(source=AudioFolders(validation=("validation",)), max_length=80, tokens_per_batch=640),
        model=EncoderOnlyConfig(
            d_model=16, num_heads=2, d_ff=32, num_layers=2, norm_placement="pre", final_norm=True,
            input=Frames(strides=(2, 2)), pooling="mean", pooler=False,
        ),
        optimizer=OptimizerConfig(name="adamw", schedule="cosine", learning_rate=1e-2, warmup_steps=5),
        train=TrainConfig(steps=12, log_every=1, evaluate_every=4, save_every=4, best="validation_accuracy"),
        mesh=MeshConfig(data=1),
    )
"""
RECOGNITION = """
from dataclasses import replace

from sound import experiment as classes
from transformer_jax import AudioTable, Bytes, Decoding, EncoderDecoderConfig, Experiment, Frames, SpeechRecognition


def experiment():
    old = classes()
    return replace(
        old,
        task=SpeechRecognition(
            log_mel=old.task.log_mel, augmentation=old.task.augmentation, ctc_weight=0.3, longest_text=16,
            decoding=Decoding(beam_size=2, max_new_tokens=8),
        ),
        data=replace(
            old.data, source=AudioTable(train=("train.tsv",), validation=("validation.tsv",)), tokenizer=Bytes()
        ),
        model=EncoderDecoderConfig(d_model=16, num_heads=2, d_ff=32, num_layers=2, input=Frames(strides=(2, 2))),
        train=replace(old.train, steps=6, save_every=2, best="validation_wer"),
    )
"""
TIMINGS = ("tokens_per_second", "peak_memory", "memory")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Low and high tones in noise, one of them damaged, and the experiment's file."""
    place, random = tmp_path_factory.mktemp("sound"), np.random.default_rng(0)
    for split, count in (("train", 40), ("validation", 9)):
        for number in range(count):
            folder = place / split / ("high" if number % 2 else "low")
            folder.mkdir(parents=True, exist_ok=True)
            pitch, length = (900 if number % 2 else 300) * random.uniform(0.9, 1.1), random.integers(2_000, 6_000)
            tone = 0.3 * np.sin(2 * np.pi * pitch * np.arange(length) / 8_000)
            soundfile.write(folder / f"{number}.wav", tone + random.normal(0, 0.05, length), 8_000)
    (place / "train" / "low" / "broken.wav").write_bytes(b"nothing")
    for split in ("train", "validation"):
        names = sorted(path.relative_to(place).as_posix() for path in place.glob(f"{split}/*/*.wav"))
        (place / f"{split}.tsv").write_text("".join(f"{name}\t{name.split('/')[1]}\n" for name in names))
    (place / "sound.py").write_text(EXPERIMENT)
    (place / "recognition.py").write_text(RECOGNITION)
    return place


def train(place, name, *options, file="sound.py"):
    arguments = ["--data.source.directory", str(place), *options]
    assert main(["train", str(place / file), "--workdir", str(place / name), *arguments]) == 0
    rows = read_metrics(place / name)
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]


@pytest.fixture(scope="module")
def straight(place):
    return train(place, "straight")


@pytest.mark.slow
def test_a_run_learns_and_goes_on_as_if_it_had_not_been_stopped(straight, place, capsys):
    assert straight[-1]["validation_accuracy"] > 85 and straight[-1]["loss"] < straight[0]["loss"]
    train(place, "stopped", "--train.stop-after", "5")
    assert "train: 40 examples, " in (out := capsys.readouterr().out) and "skipped 1 (1 undecodable, the first" in out
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
    files = [str(place / "validation" / name) for name in ("low/0.wav", "high/1.wav")]
    (tmp_path / "files.txt").write_text("\n".join([*files, str(place / "train" / "low" / "broken.wav")]))
    assert main(["predict", str(place / "straight"), "--input", str(tmp_path / "files.txt")]) == 0
    captured = capsys.readouterr()
    assert captured.out == "low\nhigh\n\n" and "broken.wav is no sound" in captured.err
    predictor = load(place / "straight")
    assert predictor.classify([*files, soundfile.read(files[1])[0]]) == ["low", "high", "high"]


def test_a_plan_knows_recordings(place):
    plan = make_plan(load_experiment_file(place / "sound.py"), topology("cpu:1")[0])
    assert (plan.rows, plan.tokens) == (8, 640)
    samples, numbers = 2 * 8 * 80 * 80, 4 * 8 * 4  # frames of a row; its length, samples, label and example
    assert plan.batch_bytes == samples + numbers


@pytest.mark.slow
def test_texts_are_learnt_with_ctc_and_the_run_goes_on_as_if_it_had_not_been_stopped(place, capsys):
    straight = train(place, "texts", file="recognition.py")
    assert straight[-1]["loss"] < straight[0]["loss"] and straight[-1]["ctc"] < straight[0]["ctc"]
    assert {"validation_wer", "validation_cer"} <= straight[-1].keys()
    train(place, "stopped texts", "--train.stop-after", "3", file="recognition.py")
    assert train(place, "stopped texts", file="recognition.py") == straight
    capsys.readouterr()
    (place / "files.txt").write_text(f"{place / 'validation' / 'low' / '0.wav'}\n")
    assert main(["predict", str(place / "texts"), "--input", str(place / "files.txt"), "--scores"]) == 0
    score, _, text = capsys.readouterr().out.rstrip("\n").partition("\t")
    assert (
        float(score) < 0 and text == load(place / "texts").transcribe([str(place / "validation" / "low" / "0.wav")])[0]
    )
    drawn = ["attention", str(place / "texts"), str(place / "validation" / "low" / "0.wav"), "--target", "low"]
    assert main(drawn) == 0 and (place / "texts" / "attention" / "attention.png").stat().st_size > 10_000
    plan = make_plan(load_experiment_file(place / "recognition.py"), topology("cpu:1")[0])
    assert plan.batch_bytes == 2 * 8 * 80 * 80 + 4 * 8 * (4 + 16), "a text is no longer than task.longest_text"
