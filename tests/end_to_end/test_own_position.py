"""A position with a trained parameter and a field of its own, defined in an experiment's file alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import transformer_jax
from transformer_jax.cli.main import main
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.runs.metrics import read_metrics
from transformer_jax.runs.run import Run

EXPERIMENT = '''
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from transformer_jax import (
    Bytes, DataConfig, Experiment, LanguageModelling, MeshConfig, OptimizerConfig, Source, TrainConfig, gpt2,
)
from transformer_jax.nn.positions import Position


@dataclass(frozen=True)
class Fading(Position):
    """Scores fall with distance at a rate that every head learns (Chi et al. 2022, "KERPLE", logarithmic)."""

    start: float = 1.0

    def attention_parameters(self, sizes, initializer, rngs):
        return {"rate": nnx.Param(jnp.full(sizes.num_heads, self.start), axes=("heads",))}

    def bias(self, query, key, sizes, parameters):
        distance = jnp.abs(query[:, None, :, None] - key[:, None, None, :]).astype(jnp.float32)
        return -jax.nn.softplus(parameters["rate"]).reshape(1, -1, 1, 1) * jnp.log1p(distance)


@dataclass(frozen=True)
class Counting(Source):
    """Numbers in a row."""

    def examples(self, split):
        start = {"train": 0, "validation": 500, "test": 600}[split]
        return [{"text": " ".join(str(n + i) for i in range(8))} for n in range(start, start + 40)]


def experiment():
    return Experiment(
        task=LanguageModelling(),
        data=DataConfig(source=Counting(), tokenizer=Bytes(), max_length=32, tokens_per_batch=256, num_buckets=1),
        model=gpt2(d_model=16, num_heads=4, d_ff=32, num_layers=2, positions=Fading(), dropout=0.0),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=5),
        train=TrainConfig(steps=6, log_every=1, evaluate_every=0, save_every=3, validation_examples=4),
        mesh=MeshConfig(data=1),
    )
'''
RATE = "decoder/position_bias/rate"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """One run straight to its end, one that stops and goes on, and one on eight devices."""
    place = tmp_path_factory.mktemp("own")
    (place / "own.py").write_text(EXPERIMENT, encoding="utf-8")
    for name, *options in (
        ("straight",),
        ("run", "--train.stop-after", "3"),
        ("run",),
        ("mesh", "--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2", "--model.positions.start", "1.0"),
    ):
        assert main(["train", str(place / "own.py"), "--workdir", str(place / name), *options]) == 0
    return place


def losses(run):
    return [row["loss"] for row in read_metrics(run)]


@pytest.mark.slow
def test_it_trains_and_resumes_to_the_same_numbers(directory):
    assert losses(directory / "straight") == losses(directory / "run")
    straight, resumed = (named_parameters(Run.open(directory / name).predictor().model) for name in ("straight", "run"))
    np.testing.assert_array_equal(straight[RATE], resumed[RATE])
    assert np.abs(straight[RATE] - 1.0).min() > 1e-3, "every head has learnt a rate of its own"


@pytest.mark.slow
def test_it_is_sharded_over_a_mesh_and_gives_the_same_numbers(directory):
    np.testing.assert_allclose(losses(directory / "mesh"), losses(directory / "straight"), rtol=1e-4)


@pytest.mark.slow
def test_it_is_counted_and_its_field_is_saved(directory):
    run = Run.open(directory / "straight")
    model = run.experiment.model
    parameters = named_parameters(jax.eval_shape(lambda: model.build(0)))
    padding = (parameters["embedding/table"].shape[0] - model.vocab_size) * 16
    assert model.num_parameters() == sum(value.size for value in parameters.values()) - padding
    assert parameters[RATE].size == 4
    assert model.positions.start == 1.0


@pytest.mark.slow
def test_it_generates_with_a_cache_what_the_whole_text_gives(directory):
    generator = transformer_jax.load(directory / "straight")
    model, tokenizer = generator
    tokens = jnp.asarray([[tokenizer.bos_id, *tokenizer.encode("7 8 9")]])
    cache, steps = model.start_cache(1, tokens.shape[1]), []
    for i in range(tokens.shape[1]):
        logits, cache = model.extend(tokens[:, i : i + 1], cache)
        steps.append(logits)
    np.testing.assert_allclose(
        jnp.concatenate(steps, axis=1)[..., :260], model(tokens)[..., :260], rtol=1e-4, atol=2e-5
    )
    assert isinstance(generator.generate(["7 8 9"], max_new_tokens=4)[0], str)
