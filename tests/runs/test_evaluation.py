"""Evaluation is the path of training: the task's own loss over every example once, on any mesh."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.analysis.report import show_result
from transformer_jax.data.config import DataConfig
from transformer_jax.data.dates import Dates
from transformer_jax.data.labels import Labels
from transformer_jax.data.sources import Files
from transformer_jax.data.tokenizers import Bytes, ByteTokenizer
from transformer_jax.models.decoder_only import gpt2
from transformer_jax.models.encoder_decoder import base
from transformer_jax.models.encoder_only import bert
from transformer_jax.nn.positions import Learned
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.runs.evaluation import PROBES, Evaluation, encoded_examples, evaluate
from transformer_jax.runs.preparation import prepare
from transformer_jax.runs.run import Run, Steps
from transformer_jax.tasks.language_modelling import LanguageModelling
from transformer_jax.tasks.masked_language_modelling import MaskedLanguageModelling
from transformer_jax.tasks.next_sentence import NextSentence
from transformer_jax.tasks.question_answering import QuestionAnswering
from transformer_jax.tasks.sequences import padded
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
    return Evaluation(run, encoded_examples(run, examples), mesh), model.build(0)


def test_models_that_cannot_read_the_same_texts_are_no_ensemble():
    data = DataConfig(source=Files(), tokenizer=Bytes(mask=True), max_length=24)
    task, model = Translation(), base(**SIZE, vocab_size=TEXT.vocab_size)
    vocabularies = {"source": TEXT, "target": TEXT}
    run = Run(Path("one"), Experiment(task=task, data=data, model=model), vocabularies)
    short = replace(model, positions=Learned(), max_length=16)
    for changes, message in (
        ({"model": short}, "other cannot decode with one: .*max_length"),
        ({"task": replace(task, source_prefix="de: ")}, "other has another task.source_prefix"),
    ):
        other = Run(Path("other"), replace(run.experiment, **changes), vocabularies)
        with pytest.raises(ValueError, match=message):
            evaluate(run, [1], [{"source": "a", "target": "b"}], [(other, [1])])


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
    for name, column in task.columns.items():
        if column.varying and column.batched:
            batch[name], batch[f"{name}_length"] = padded(columns[name], len(columns[name]), 24)
        elif column.batched:
            batch[name] = np.array(columns[name], column.dtype)
    total, weight = jax.jit(task.loss)(model, batch, None)["loss"]
    assert evaluate(model)["loss"] == pytest.approx(float(total / weight), rel=1e-5)
    assert "loss" in task.metrics()


def test_a_text_is_tokenised_once_for_checks_evaluations_and_the_result(tmp_path, monkeypatch):
    counts, encode_batch = Counter(), ByteTokenizer.encode_batch

    def counting(self, texts):
        counts.update(texts)
        return encode_batch(self, texts)

    monkeypatch.setattr(ByteTokenizer, "encode_batch", counting)
    dates = Dates(languages=("fr",), train_examples=40, validation_examples=40, test_examples=40)
    data = DataConfig(source=dates, tokenizer=Bytes(), max_length=80, tokens_per_batch=1024, num_buckets=1)
    task = Translation(scores=("exact_match",), decoding=Decoding(beam_size=1, extra_length=0))
    file = tmp_path / "mine.py"
    file.write_text("")
    prepared = prepare(Experiment(task=task, data=data, model=base(**SIZE)), file, tmp_path / "run")
    model = prepared.run.experiment.model.build(0)
    monkeypatch.setattr(Run, "model_of", lambda *_: model)
    assert prepared.validation is not None and prepared.validation(model)["examples"] == 40
    assert prepared.validation(model)["examples"] == 40
    show_result(prepared.run, Steps([1]), ONE, samples=2)
    # The first ones tell whether a table on disk is the right one.
    for split in dates.splits:
        sources = [example["source"] for example in dates.examples(split)]
        assert {counts[source] for source in sources[PROBES:]} == {1}


def test_a_batch_is_on_its_way_before_the_sums_of_the_one_before_are_fetched(monkeypatch):
    evaluate, model = evaluation(MaskedLanguageModelling(rate=0.3), ENCODER, DOCUMENTS * 20, ONE)
    events, device_get = [], jax.device_get

    def dispatch(model, batch):
        events.append("dispatch")
        return {"loss": (jnp.float32(1), jnp.float32(2))}

    def fetch(arrays):
        events.append("fetch")
        return device_get(arrays)

    monkeypatch.setattr(evaluate, "_sums", dispatch)
    monkeypatch.setattr(jax, "device_get", fetch)
    count = evaluate.plan.batches_per_epoch
    assert count > 2 and evaluate.sums(model) == {"loss": (count, 2 * count)}
    assert events == ["dispatch", *["dispatch", "fetch"] * (count - 1), "fetch"]
