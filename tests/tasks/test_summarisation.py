from dataclasses import replace

import jax.numpy as jnp
import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files
from transformer_jax.data.tokenizers import Bytes
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.positions import Learned
from transformer_jax.tasks.scores import text_scores
from transformer_jax.tasks.summarisation import Summarisation, first_sentences
from transformer_jax.tasks.translation import Decoding, Translation

TOKENIZER = Bytes().train([])
TOKENIZERS = {"source": TOKENIZER, "target": TOKENIZER}
DATA = DataConfig(source=Files(), tokenizer=Bytes(), max_length=16)
MODEL = EncoderDecoderConfig(d_model=16, num_heads=2, d_ff=32, num_layers=1, dropout=0.0)
SIZES = {"source": 260, "target": 260}
TASK = Summarisation(decoding=Decoding(beam_size=2, extra_length=30, max_new_tokens=5), lead=1)
LONG = "A first sentence. A second one, which is far too long for the model."


@pytest.fixture(scope="module")
def predictor():
    return TASK.predictor(TASK.resolve(MODEL, DATA, SIZES).build(0), TOKENIZERS, DATA)


def test_a_long_source_loses_its_end_but_not_its_end_token_and_is_refused_by_a_translation(predictor):
    (tokens,) = TASK.encode(TOKENIZERS, [{"source": LONG, "target": "A"}], max_length=16)["source"]
    assert tokens == [*TOKENIZER.encode(LONG[:15]), TOKENIZER.eos_id]
    assert predictor.encoded([LONG]) == [tokens]
    assert predictor.predict([LONG]) == predictor.predict([LONG[:15]])
    whole = replace(TASK, truncate=False).predictor(predictor.model, TOKENIZERS, DATA)
    with pytest.raises(ValueError, match="line 1 has 69 tokens, more than the 16 of the model"):
        whole.predict([LONG])


def test_a_prefix_stands_in_front_of_every_source():
    task = replace(TASK, source_prefix="so: ", source_start="x")
    (tokens,) = task.encode(TOKENIZERS, [{"source": "ab", "target": "a"}], max_length=16)["source"]
    assert tokens == [TOKENIZER.token_id("x"), *TOKENIZER.encode("so: ab"), TOKENIZER.eos_id]


@pytest.mark.parametrize(("limit", "longest"), [(5, 5), (0, 32)])
def test_a_summary_has_at_most_as_many_tokens_as_its_limit(predictor, limit, longest):
    task = replace(TASK, decoding=replace(TASK.decoding, max_new_tokens=limit, min_length=40, extra_length=30))
    found = task.predictor(predictor.model, TOKENIZERS, DATA)
    result = found.search_tokens(jnp.array([[*TOKENIZER.encode("a"), TOKENIZER.eos_id]]), jnp.array([2]))
    assert result.tokens.shape[-1] == longest and result.lengths.max() == longest


def test_a_limit_spares_positions_that_the_model_does_not_have():
    model = replace(MODEL, positions=Learned(), max_length=16)
    assert TASK.resolve(model, DATA, SIZES).max_length == 16
    with pytest.raises(ValueError, match="or limit task.decoding.max_new_tokens"):
        replace(TASK, decoding=Decoding(extra_length=1)).resolve(model, DATA, SIZES)


def test_the_best_of_several_references_counts_and_the_lead_is_scored_beside(predictor, encoded):
    examples = [
        {"source": LONG, "target": "nothing", "references": ["nothing", "A first sentence"]},
        {"source": "One. Two.", "target": "two", "references": "one"},
        {"source": "Alone.", "target": "x"},
    ]
    assert list(map(TASK.right, examples)) == [["nothing", "A first sentence"], ["two", "one"], ["x"]]
    assert TASK.right({"source": "a", "target": "b", "references": "b"}) == ["b", "b"], "two files may say the same"
    assert TASK.right({"source": "a", "target": "", "references": ["", "b"]}) == ["b"], "an empty line is no reference"
    rows = encoded(TASK, TOKENIZERS, examples, max_length=16)
    found = TASK.evaluate(predictor, rows)
    assert found["lead_rouge1"] == found["lead_rougeL"] == pytest.approx(200 / 3)
    written = predictor.predict([example["source"] for example in examples])
    assert found["rouge1"] == text_scores(written, list(map(TASK.right, examples)), ["rouge1"])["rouge1"]
    exact = replace(TASK, scores=("exact_match",), lead=0, bootstrap=10)
    assert exact.evaluate(predictor, rows).keys() >= {"exact_match", "exact_match_mean", "exact_match_confidence"}
    assert Summarisation().metrics() == {"loss": "lower", "rouge1": "higher", "rouge2": "higher", "rougeL": "higher"}
    assert Translation(scores=("ter",)).metrics()["ter"] == "lower"


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter", "rouge1", "exact_match"])
def test_a_right_text_that_is_empty_is_scored_as_such(name):
    examples = [{"source": "x", "target": "a b c d e"}, {"source": "y", "target": " "}]
    found = replace(TASK, scores=(name,)).scores_of(["a b c d e", "q"], examples)
    assert found[name] == text_scores(["a b c d e", "q"], ["a b c d e", " "], [name])[name]


def test_references_that_are_no_texts_are_refused_before_training(encoded):
    for wrong in (3, ["a", 3], {"a": "b"}):
        examples = [{"source": "a", "target": "b", "references": wrong}]
        rows = encoded(TASK, TOKENIZERS, examples, max_length=16)
        with pytest.raises(ValueError, match="'references' of an example is neither text nor a list of texts"):
            TASK.check_evaluation(TOKENIZERS, rows, max_length=16)


def test_sentences_end_behind_a_mark_before_no_small_letter_and_at_empty_lines():
    text = "It is by J. example, i.e. one\nsentence.  Is this? (Yes!)\n\nParameters\n----------"
    sentences = ["It is by J. example, i.e. one sentence.", "Is this?", "(Yes!)", "Parameters ----------"]
    for count in range(5):
        assert first_sentences(text, count) == "\n".join(sentences[:count])
