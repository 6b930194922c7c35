import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.labels import Labels
from transformer_jax.data.sources import Files
from transformer_jax.data.tokenizers import Bytes
from transformer_jax.models.encoder_only import bert
from transformer_jax.tasks.classification import Classification, PairClassification
from transformer_jax.tasks.sequences import join_parts

SIZE = {"d_model": 16, "num_heads": 2, "d_ff": 32, "num_layers": 1, "max_length": 16}
MODEL = bert(**SIZE, dropout=0.0, attention_dropout=0.0, head_dropout=0.0)
DATA = DataConfig(source=Files(), tokenizer=Bytes(), max_length=12)
TOKENIZER, LABELS = Bytes().train([]), Labels(names=("no", "yes", "perhaps"))
TOKENIZERS = {"text": TOKENIZER, "pair": TOKENIZER, "label": LABELS}
EXAMPLES = [
    {"text": "abc", "pair": "de", "label": "yes"},
    {"text": "a much longer text", "pair": "of two", "label": "no"},
    {"text": "x", "pair": "y", "label": "perhaps"},
]


def predictor(task, seed=0):
    sizes = {"text": 260, "label": 3}
    return task.predictor(task.resolve(MODEL, DATA, sizes).build(seed), TOKENIZERS, DATA)


def batch_of(task, examples=EXAMPLES):
    columns = task.encode(TOKENIZERS, examples, max_length=12)
    batch = {name: jnp.asarray(columns[name], task.columns[name].dtype) for name in ("first", "label")}
    lengths = [len(row) for row in columns["tokens"]]
    tokens = [row + [0] * (max(lengths) + 3 - len(row)) for row in columns["tokens"]]
    return batch | {"tokens": jnp.asarray(tokens), "tokens_length": jnp.asarray(lengths)}


def test_texts_are_joined_and_cut_at_their_longest_part():
    bos, eos = TOKENIZER.bos_id, TOKENIZER.eos_id

    def ids(text):
        return TOKENIZER.encode(text)

    found = join_parts(TOKENIZER, [["abc", "de"], ["abcdefgh", "ijklm"], ["a", "bcdefghijklm"]], 12)
    assert found[0] == ([bos, *ids("abc"), eos, *ids("de"), eos], 5)
    assert found[1] == ([bos, *ids("abcde"), eos, *ids("ijkl"), eos], 7)
    assert found[2] == ([bos, *ids("a"), eos, *ids("bcdefghi"), eos], 3)
    assert join_parts(TOKENIZER, [["abcdefghijklm"]], 12) == [([bos, *ids("abcdefghij"), eos], 12)]


@pytest.mark.parametrize("task", [Classification(), PairClassification()])
def test_the_loss_is_the_cross_entropy_of_the_labels(task, encoded):
    classifier = predictor(task)
    sums = jax.jit(task.loss)(classifier.model, batch_of(task), None)
    texts = [[example[name] for name in task.features[:-1]] for example in EXAMPLES]
    outputs = classifier.outputs(texts)
    labels = [1, 0, 2]
    expected = -np.asarray(jax.nn.log_softmax(outputs))[np.arange(3), labels]
    assert float(sums["loss"][1]) == 3
    assert float(sums["loss"][0]) == pytest.approx(expected.sum(), rel=1e-4)
    assert float(sums["accuracy"][0]) == (outputs.argmax(axis=1) == labels).sum()
    found = task.evaluate(classifier, encoded(task, TOKENIZERS, EXAMPLES, max_length=12))
    assert found["accuracy"] == pytest.approx(100 * (outputs.argmax(axis=1) == labels).mean())


def test_the_second_text_of_a_pair_has_another_token_type():
    classifier = predictor(PairClassification())
    model, ids = classifier.model, join_parts(TOKENIZER, [["abc", "de"]], 12)[0][0]
    types = jnp.asarray([[0] * 5 + [1] * 3])
    expected = model(jnp.asarray([ids]), token_types=types)
    np.testing.assert_allclose(classifier.outputs([["abc", "de"]]), expected, atol=1e-5)
    assert not np.allclose(model(jnp.asarray([ids])), expected, atol=1e-4)


def test_empty_rows_of_a_batch_count_nothing():
    task, batch = Classification(), batch_of(Classification())
    more = {name: jnp.concatenate([array, jnp.zeros_like(array[:2])]) for name, array in batch.items()}
    model = predictor(task).model
    for name, pair in jax.jit(task.loss)(model, more, None).items():
        np.testing.assert_allclose(pair, task.loss(model, batch, None)[name], rtol=1e-5)


def test_labels_and_probabilities_of_texts_do_not_depend_on_their_batch():
    classifier = predictor(Classification())
    texts = ["a", "some text", "a text that is cut off"]
    labels, probabilities = classifier.classify(texts), classifier.probabilities(texts)
    for text, label, of in zip(texts, labels, probabilities, strict=True):
        assert classifier.classify([text]) == [label] == [next(iter(of))]
        assert sum(of.values()) == pytest.approx(1, abs=1e-5) and of.keys() == {"no", "yes", "perhaps"}
    assert classifier.predict(texts) == labels
    assert classifier.classify([]) == [] and len(classifier.embed(texts)[0]) == 16
    with pytest.raises(TypeError, match="a list of texts"):
        classifier.classify("a text")


def test_numbers_are_learnt_by_their_squared_error(encoded):
    task = Classification(regression=True, scores=("pearson", "spearman"))
    examples = [example | {"label": label} for example, label in zip(EXAMPLES, ("1.5", -2, 0.25), strict=True)]
    examples = list(task.readable(examples))
    classifier = predictor(task)
    outputs = classifier.outputs([example["text"] for example in examples])[:, 0]
    expected = np.square(outputs - [1.5, -2, 0.25])
    assert float(task.loss(classifier.model, batch_of(task, examples), None)["loss"][0]) == pytest.approx(
        expected.sum()
    )
    found = task.evaluate(classifier, encoded(task, TOKENIZERS, examples, max_length=12))
    assert found["pearson"] == pytest.approx(np.corrcoef(outputs, [1.5, -2, 0.25])[0, 1])
    assert classifier.classify(["a"]) == [pytest.approx(float(classifier.outputs(["a"])[0, 0]))]
    for label, described in (("inf", "the text 'inf'"), (None, "null"), (float("nan"), "the number nan")):
        wrong = [*examples, {"text": "a", "label": label}]
        with pytest.raises(ValueError, match=f"'label' of example 4 is {described}; Classification needs a finite num"):
            list(task.readable(wrong))


def test_a_label_outside_of_the_set_is_named():
    with pytest.raises(ValueError, match="there is no label 'yse' among the 3 .*; did you mean yes"):
        Classification().encode(TOKENIZERS, [{"text": "a", "label": "yse"}], max_length=12)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_padding_changes_no_prediction(pooling):
    config = dataclasses.replace(MODEL, pooling=pooling, head="sequence", num_outputs=2, vocab_size=260)
    model, tokens = config.build(0), jnp.asarray([[2, 70, 71, 3]])
    longer = jnp.concatenate([tokens, jnp.full((1, 5), 99)], axis=1)
    found = model(longer, lengths=jnp.asarray([4]))
    np.testing.assert_allclose(found, model(tokens), atol=1e-5)


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        (Classification(scores=("pearson",)), MODEL, "unknown score 'pearson'"),
        (Classification(), dataclasses.replace(MODEL, num_outputs=7), "model.num_outputs follows from the data, 3"),
    ],
)
def test_what_contradicts_itself_is_refused(task, model, message):
    with pytest.raises(ValueError, match=message):
        task.resolve(model, DATA, {"text": 260, "label": 3})


def test_two_texts_need_one_vocabulary_and_two_labels_at_least():
    apart = dataclasses.replace(DATA, shared_vocabulary=False)
    with pytest.raises(ValueError, match="PairClassification needs data.shared_vocabulary"):
        PairClassification().resolve(MODEL, apart, {"text": 260, "pair": 260, "label": 3})
    with pytest.raises(ValueError, match="the same label"):
        Classification().resolve(MODEL, DATA, {"text": 260, "label": 1})
    assert Classification(regression=True).metrics() == {"loss": "lower", "pearson": "higher", "spearman": "higher"}


def test_as_many_texts_as_in_training_are_asked_for():
    with pytest.raises(ValueError, match="line 2 has 1 parts; the model was trained on 2"):
        predictor(PairClassification()).classify([("a", "b"), "c"])
    assert len(predictor(Classification()).predict(["a\tb"])) == 1
