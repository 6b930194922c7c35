"""Evaluation is the path of training: the task's own loss over every example once, on any mesh."""

from pathlib import Path

import jax
import numpy as np
import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.labels import Labels
from transformer_jax.data.sources import Files
from transformer_jax.data.tokenizers import Bytes
from transformer_jax.models.decoder_only import gpt2
from transformer_jax.models.encoder_decoder import base
from transformer_jax.models.encoder_only import bert
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.runs.evaluation import Evaluation
from transformer_jax.runs.run import Run
from transformer_jax.tasks.language_modelling import LanguageModelling
from transformer_jax.tasks.masked_language_modelling import MaskedLanguageModelling
from transformer_jax.tasks.next_sentence import NextSentence
from transformer_jax.tasks.padding import padded
from transformer_jax.tasks.question_answering import QuestionAnswering
from transformer_jax.tasks.token_classification import TokenClassification
from transformer_jax.tasks.translation import Decoding, Translation
from transformer_jax.training.experiment import Experiment

TEXT = Bytes(mask=True).train([])
TAGS = Labels(many=True, names=("B-x", "O"))
SIZE = {"d_model": 16, "num_heads": 2, "d_ff": 32, "num_layers": 1, "dropout": 0.0}
ENCODER = bert(**SIZE, max_length=24, attention_dropout=0.0)
ONE = make_mesh(MeshConfig(data=1), jax.devices()[:1])
MANY = make_mesh(MeshConfig(data=2, fsdp=-1))
DOCUMENTS = [{"text": "abcdefgh"[i % 8] * size} for i, size in enumerate((70, 3, 11, 1, 24, 30, 9, 2, 5))]


def evaluation(task, model, examples, mesh, **tokenizers):
    data = DataConfig(source=Files(), tokenizer=Bytes(mask=True), max_length=24, tokens_per_batch=256)
    vocabularies = dict.fromkeys(task.vocabularies(data), TEXT) | tokenizers
    model = task.resolve(model, data, {name: tokenizer.vocab_size for name, tokenizer in vocabularies.items()})
    run = Run(Path("unused"), Experiment(task=task, data=data, model=model), vocabularies)
    return Evaluation(run, examples, mesh), model.build(0)


def test_the_loss_of_translations_is_that_of_their_targets_whatever_the_batches():
    task = Translation(scores=("exact_match",), decoding=Decoding(beam_size=1, extra_length=2))
    pairs = [("a", "bcd"), ("some words", "xy"), ("q" * 20, "z" * 12), ("x" * 30, "y")]
    examples = [{"source": source, "target": target} for source, target in pairs]
    evaluate, model = evaluation(task, base(**SIZE), examples, ONE)
    found = evaluate(model)
    predictor = task.predictor(model, evaluate.run.tokenizers, evaluate.run.experiment.data)
    scores = predictor.score(*zip(*pairs[:3], strict=True))
    assert found["loss"] == pytest.approx(-sum(scores) / (4 + 3 + 13), rel=1e-5)
    assert (found["examples"], found["skipped"]) == (3, 1) and "exact_match" in found
    divided, model = evaluation(task, base(**SIZE), examples, MANY)
    assert divided(model) == found | {"loss": pytest.approx(found["loss"], rel=1e-5)}


def test_the_loss_of_documents_is_that_of_their_windows():
    evaluate, model = evaluation(LanguageModelling(), gpt2(**SIZE, attention_dropout=0.0), DOCUMENTS, MANY)
    generator = evaluate.run.experiment.task.predictor(model, evaluate.run.tokenizers, evaluate.run.experiment.data)
    losses = generator.losses([example["text"] for example in DOCUMENTS])
    total, tokens = np.sum(losses, axis=0)
    found = evaluate(model)
    assert (found["examples"], found["tokens"]) == (9, tokens)
    assert found["loss"] == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.parametrize("task", [MaskedLanguageModelling(rate=0.3), NextSentence(rate=0.3)])
def test_what_is_masked_is_drawn_once_for_all_and_whatever_the_mesh(task):
    evaluate, model = evaluation(task, ENCODER, DOCUMENTS, ONE)
    found = evaluate(model)
    assert found == evaluate(model) and found["tokens"] > 20
    assert found.keys() == {"examples", "tokens", "perplexity", *task.metrics()}
    divided, model = evaluation(task, ENCODER, DOCUMENTS, MANY)
    assert divided(model) == {name: pytest.approx(value, rel=1e-5) for name, value in found.items()}


@pytest.mark.parametrize(
    ("task", "examples"),
    [
        (TokenClassification(), [{"text": "ab cde f", "tags": "O B-x O"}, {"text": "q", "tags": "B-x"}]),
        (
            QuestionAnswering(stride=4),
            [
                {"question": "who", "context": "it was Ann who sang, and who danced", "answer": "Ann", "start": "7"},
                {"question": "a", "context": "b", "answer": "b", "start": "0"},
            ],
        ),
    ],
)
def test_every_task_reports_its_loss(task, examples):
    evaluate, model = evaluation(task, ENCODER, examples, ONE, **({"tags": TAGS} if "tags" in task.features else {}))
    columns, batch = task.encode(evaluate.run.tokenizers, examples, max_length=24), {}
    for name, rows in columns.items():
        if task.columns[name].varying:
            batch[name], batch[f"{name}_length"] = padded(rows, len(rows), 24)
        else:
            batch[name] = np.array(rows, task.columns[name].dtype)
    total, weight = jax.jit(task.loss)(model, batch, None)["loss"]
    assert evaluate(model)["loss"] == pytest.approx(float(total / weight), rel=1e-5)
    assert "loss" in task.metrics()
