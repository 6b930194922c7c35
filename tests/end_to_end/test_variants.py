"""Every variant of the model, from text to a run that is stopped, goes on, is scored and used."""

import json
import re
import shutil

import numpy as np
import pytest

import transformer_jax
from transformer_jax.cli.main import main
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.runs.metrics import read_metrics
from transformer_jax.runs.run import Run

VARIANTS = ("experiment", "masked", "classes")
TIMINGS = {"tokens_per_second", "memory", "peak_memory"}
EXPERIMENT = '''
from dataclasses import dataclass

from transformer_jax import (
    Classification, DataConfig, Experiment, Generation, LanguageModelling, MaskedLanguageModelling, MeshConfig,
    OptimizerConfig, Sampling, Source, TrainConfig, WordPiece, bert, gpt2,
)

SIZE = dict(d_model=16, num_heads=2, d_ff=32, num_layers=2, max_length=16)


@dataclass(frozen=True)
class Counting(Source):
    """Numbers in a row, and whether the first is even."""

    def examples(self, split):
        start = {"train": 0, "validation": 200, "test": 230}[split]
        words = "zero one two three four five six seven eight nine".split()
        return [
            {"text": " ".join(words[(n * 7 + i) % 10] for i in range(3 + n % 9)), "label": str(n * 7 % 2)}
            for n in range(start, start + (200 if split == "train" else 30))
        ]


def make(task, model):
    return Experiment(
        task=task,
        data=DataConfig(
            source=Counting(), tokenizer=WordPiece(vocab_size=60), max_length=16, tokens_per_batch=256, num_buckets=1
        ),
        model=model,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=5),
        train=TrainConfig(steps=16, log_every=1, evaluate_every=8, save_every=4, validation_examples=4),
        mesh=MeshConfig(data=1),
    )


def experiment():
    generation = Generation(max_new_tokens=8, sampling=Sampling(temperature=0.0))
    return make(LanguageModelling(generation=generation), gpt2(**SIZE))


def masked():
    return make(MaskedLanguageModelling(whole_words=True), bert(**SIZE))


def classes():
    return make(Classification(scores=("accuracy", "f1", "matthews")), bert(**SIZE))
'''


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A directory with a run of every variant that nothing interrupts; no test may change them."""
    place = tmp_path_factory.mktemp("straight")
    (place / "tiny.py").write_text(EXPERIMENT, encoding="utf-8")
    for variant in VARIANTS:
        arguments = ["train", str(place / "tiny.py"), "--variant", variant, "--workdir", str(place / variant)]
        assert main(arguments) == 0
    return place


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Trains a variant in a directory of its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(EXPERIMENT, encoding="utf-8")

    def run(variant, directory, *options):
        status = main(["train", "tiny.py", "--variant", variant, "--workdir", directory, *options])
        captured = capsys.readouterr()
        assert status == 0, captured.err
        return captured.out

    return run


def state(directory, step=16):
    model = Run.open(directory).model_of([step])
    return {name: np.asarray(value) for name, value in named_parameters(model).items()}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_stops_and_goes_on_equals_one_that_does_not(straight, train, variant):
    assert "stopped and saved at step 6" in train(variant, "run", "--train.stop-after", "6")
    train(variant, "run")
    one, other = (
        [{name: row[name] for name in row.keys() - TIMINGS} for row in read_metrics(directory)]
        for directory in (straight / variant, Run.open("run").directory)
    )
    assert one == other and len(one) == 16
    losses = [row["loss"] for row in one]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    first, second = state(straight / variant), state("run")
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.slow
def test_every_variant_is_scored_and_used(straight, tmp_path, capsys, monkeypatch):
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    scores = {
        "experiment": {"examples", "tokens", "loss", "perplexity", "bits_per_byte"},
        "masked": {"examples", "tokens", "loss", "perplexity", "accuracy"},
        "classes": {"examples", "loss", "accuracy", "f1", "matthews"},
    }
    (tmp_path / "lines").write_text("one two\nfour five six\n")
    for variant, expected in scores.items():
        assert main(["evaluate", variant, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found.keys() == expected | {"checkpoint"} and found["examples"] == 30
        assert main(["predict", variant, "--input", "lines"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2
        model, tokenizer = transformer_jax.load(variant)
        assert tokenizer.decode(tokenizer.encode("one two")) == "one two"
    filler = transformer_jax.load("masked")
    assert len(filler.candidates("one [MASK] three", 2)[0]) == 2
    assert set(transformer_jax.load("classes").classify(["one two", "two three"])) <= {"0", "1"}


@pytest.mark.slow
def test_a_classifier_begins_from_a_masked_language_model(straight, train, capsys):
    shutil.copytree(straight / "masked", "masked")
    table = train("classes", "classes", "--initialize-from", "masked:8", "--train.stop-after", "12", "--profile")
    assert len(re.findall(r"^ +\d+\.\d%  +\d+\.\d\d ms  \S", table, re.MULTILINE)) == 10, "costliest operations"
    assert re.search(r"taken  \d+ parameters as they are", table) and "new    pooler/transform/kernel" in table
    assert Run.open("classes").tokenizers["text"].fingerprint == Run.open("masked").tokenizers["text"].fingerprint
    assert "taken" not in train("classes", "classes", "--initialize-from", "masked:8"), "it has begun already"
    adapted = ["--optimizer.lora.rank", "2", "--optimizer.frozen", "encoder/*", "embedding/*"]
    for stop in ("1", "3"):
        train("classes", "adapted", "--initialize-from", "masked:8", *adapted, "--train.stop-after", stop)
    old, new = state("masked", 8), state("adapted", 3)
    query, table = "encoder/layers/self_attention/query/kernel", "embedding/table"
    np.testing.assert_array_equal(new[table], old[table])
    assert [np.linalg.matrix_rank(layer.reshape(16, 16), tol=1e-6) for layer in new[query] - old[query]] == [2, 2]
    other = ["--initialize-from", "masked:7"]
    assert main(["train", "tiny.py", "--variant", "classes", "--workdir", "other", *other]) == 2
    assert "no checkpoint of step 7" in capsys.readouterr().err
