import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files
from transformer_jax.data.tokenizers import Bytes
from transformer_jax.decoding.beam import BeamResult
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.positions import Learned
from transformer_jax.tasks import translation
from transformer_jax.tasks.translation import Decoding, Translation, Translator

CONFIG = EncoderDecoderConfig(
    d_model=16, num_heads=2, d_ff=32, num_layers=1, dropout=0.0, vocab_size=260, source_vocab_size=260
)
LINES = ["a", "some words", "", "forty-two", "b c d"]


@pytest.fixture(scope="module")
def translator():
    tokenizer = Bytes().train([])
    return Translator(CONFIG.build(0), tokenizer, tokenizer, Decoding(beam_size=3, extra_length=4), max_length=20)


def test_results_do_not_depend_on_what_stands_beside_a_line(translator):
    together = translator.search(LINES, n_best=3)
    alone = [translator.search([line], n_best=3)[0] for line in LINES]
    for one, other in zip(together, alone, strict=True):
        assert [found.text for found in one] == [found.text for found in other]
        for a, b in zip(one, other, strict=True):
            assert a.log_prob == pytest.approx(b.log_prob, rel=1e-4)
    assert translator.translate(LINES)[2] == ""


def test_scores_are_log_probabilities_over_the_length_penalty(translator):
    for hypotheses, line in zip(translator.search(LINES, n_best=3), LINES, strict=True):
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for found in hypotheses:
            if line and "\ufffd" not in found.text:
                (recomputed,) = translator.score([line], [found.text])
                assert found.log_prob == pytest.approx(recomputed, rel=1e-4)
                length = len(found.text.encode()) + 1
                assert found.score == pytest.approx(found.log_prob / ((5 + length) / 6) ** 0.6, rel=1e-4)


def test_wide_beams_with_long_outputs_have_few_rows(translator, monkeypatch):
    monkeypatch.setattr(translation, "MOST_CACHED", 300)
    sizes = [8] * 6  # of three hypotheses of 8 + 4 tokens each
    assert [(len(items), rows) for items, _, rows in translator.groups(sizes)] == [(6, 8)]
    monkeypatch.setattr(translation, "MOST_CACHED", 100)
    assert [(len(items), rows) for items, _, rows in translator.groups(sizes)] == [(2, 2)] * 3
    assert translator.translate(["some words"] * 3) == [translator.translate(["some words"])[0]] * 3


def test_lists_of_choices_of_about_the_same_length_share_a_search(translator):
    lengths = {translator._longest([[0] * size, [0]]) for size in (5, 6, 7, 8)}
    assert lengths == {8} and translator._longest([[0] * 18]) == translator.max_length


def test_n_best_translations_are_different_texts_with_their_best_scores(translator, monkeypatch):
    def found(*_, **__):
        ids = [translator.tokenizer.target.encode(text) for text in ("ab", "c", "ab", "d")]
        ids[2].append(translator.tokenizer.target.pad_id)  # other tokens of the same text
        tokens = np.array([[row + [0] * (4 - len(row)) for row in ids]] * 8)
        lengths, scores = np.array([list(map(len, ids))] * 8), np.array([[-1.0, -2.0, -3.0, -4.0]] * 8)
        return BeamResult(*map(jnp.asarray, (tokens, lengths, scores, scores)))

    monkeypatch.setattr(translation, "_search", found)
    (best,) = translator.search(["x"], n_best=3)
    assert [(hypothesis.text, hypothesis.score) for hypothesis in best] == [("ab", -1), ("c", -2), ("d", -4)]


def test_a_line_that_is_too_long_is_named_and_not_cut(translator):
    with pytest.raises(ValueError, match="line 2 has 31 tokens, more than the 20"):
        translator.translate(["short", "x" * 30])


def test_one_string_is_not_taken_letter_by_letter(translator):
    with pytest.raises(TypeError, match="a list of lines"):
        translator.translate("a line")
    with pytest.raises(TypeError, match="a list of lines"):
        translator.score(["a", "b"], "ab")


@pytest.mark.parametrize("beam_size", [1, 3])
def test_parameters_that_are_not_finite_are_no_translation(translator, beam_size):
    broken = jax.tree.map(lambda array: array * jnp.nan, translator.model)
    decoding = Decoding(beam_size=beam_size, extra_length=4)
    with pytest.raises(FloatingPointError, match="line 2 has no output"):
        Translator(broken, translator.tokenizer.source, translator.tokenizer.target, decoding).translate(["", "words"])


def test_a_batch_to_score_is_bounded_on_its_longer_side(translator, monkeypatch):
    shapes = []

    def record(model, source, lengths, target, targets, *, first):
        shapes.append((source.shape, target.shape))
        return jnp.zeros(len(source))

    monkeypatch.setattr(translation, "_log_probabilities", record)
    source, target = translator.tokenizer
    few = Translator(translator.model, source, target, Decoding(tokens_per_batch=64), max_length=20)
    assert few.score(["a"] * 20, ["b" * 17, *["b"] * 19]) == [0.0] * 20
    assert sum(rows for (rows, _), _ in shapes) >= 20
    assert all(rows * max(width, other) <= 64 for (rows, width), (_, other) in shapes)


def test_evaluation_reports_scores_and_what_was_left_out(translator, encoded):
    task = dataclasses.replace(Translation(scores=("exact_match", "bleu")), decoding=translator.decoding)
    examples = [{"source": "ab", "target": "ba"}, {"source": "x" * 30, "target": "y"}]
    tokenizers = translator.tokenizer._asdict()
    scores = task.evaluate(translator, encoded(task, tokenizers, examples, max_length=translator.max_length))
    assert scores["examples"] == 1 and scores["skipped"] == 1
    assert scores["signature"].startswith("nrefs:1")


def test_attention_of_a_sentence_sums_to_one_and_unpacks(translator):
    maps = translator.attention("ab", "cde")
    assert [kind.weights.shape for kind in maps] == [(1, 2, 3, 3), (1, 2, 4, 4), (1, 2, 4, 3)]
    for kind in maps:
        assert kind.weights.sum(-1) == pytest.approx(1, abs=1e-4)
    model, tokenizer = translator
    assert model is translator.model and tokenizer.decode(tokenizer.encode("ab")) == "ab"


def with_decoding(translator, names=None, **changes):
    source, target = translator.tokenizer
    decoding = dataclasses.replace(translator.decoding, **changes)
    return Translator(translator.model, source, target, decoding, max_length=20, **(names or {}))


def test_a_translation_is_one_of_given_texts_and_the_most_probable_of_them(translator):
    choices, lines = ["ab", "abc", "b", "a longer text", ""], ["two words", "one"]
    expected = [max(choices, key=lambda text: translator.score([line], [text])[0]) for line in lines]
    probable = with_decoding(translator, length_penalty=0.0, beam_size=5)
    assert probable.translate(lines, among=choices) == expected
    with pytest.raises(ValueError, match="no text to choose from"):
        probable.translate(lines, among=[])
    with pytest.raises(ValueError, match="'a' cannot be written: it has a"):
        with_decoding(translator, suppressed=("a",)).translate(lines, among=["b", "a"])
    everything = probable.search(lines, 5, among=choices)
    assert [{found.text for found in row} for row in everything] == [{*choices}] * 2


def test_a_translation_begins_with_the_token_of_its_language_which_counts_in_its_length(translator):
    tagged = with_decoding(translator, {"target_start": "x"})
    for found in tagged.search(["a b"], 3)[0]:
        assert found.log_prob == pytest.approx(tagged.score(["a b"], [found.text])[0], rel=1e-4)
        (whole,), (untagged,) = translator.score(["a b"], [f"x{found.text}"]), translator.score(["a b"], [found.text])
        assert whole < found.log_prob != pytest.approx(untagged, rel=1e-4)
        length = len(found.text.encode()) + 2
        assert found.score == pytest.approx(found.log_prob / ((5 + length) / 6) ** 0.6, rel=1e-4)


def test_at_its_limit_a_translation_with_a_language_has_the_probability_that_it_is_scored_with(translator):
    tagged = with_decoding(translator, {"target_start": "x"}, extra_length=0, beam_size=2)
    for line in ("a b", "words", *("a" * length for length in range(4, 9))):  # one fills the width of its batch
        for found in tagged.search([line], 2)[0]:
            if "\ufffd" in found.text:
                continue
            assert found.log_prob == pytest.approx(tagged.score([line], [found.text])[0], rel=1e-4)


def test_the_token_of_a_language_needs_a_position():
    data, model = DataConfig(source=Files(), max_length=20), dataclasses.replace(CONFIG, max_length=22, vocab_size=0)
    model = dataclasses.replace(model, positions=Learned(), source_vocab_size=0)
    task = Translation(decoding=Decoding(extra_length=2))
    sizes = {"source": 300, "target": 300}
    assert task.resolve(model, data, sizes).vocab_size == 300
    with pytest.raises(ValueError, match="and one for task.target_start; raise it"):
        dataclasses.replace(task, target_start="x").resolve(model, data, sizes)


def test_a_source_stands_between_the_tokens_of_its_language_and_so_it_is_learnt():
    tokenizer, task = Bytes().train([]), Translation(source_start="x", source_end="y", target_start="z")
    examples = [{"source": "ab", "target": "c"}]
    columns = task.encode({"source": tokenizer, "target": tokenizer}, examples, max_length=20)
    x, y, z = map(tokenizer.token_id, "xyz")
    assert columns["source"] == [[x, *tokenizer.encode("ab"), tokenizer.eos_id, y]]
    assert columns["target"] == [[tokenizer.bos_id, z, *tokenizer.encode("c"), tokenizer.eos_id]]
    both = {"source": tokenizer, "target": tokenizer}
    predictor = task.predictor(CONFIG.build(0), both, DataConfig(source=Files(), max_length=20))
    assert predictor.encoded(["ab"]) == columns["source"]


def test_a_translation_has_no_token_that_is_suppressed(translator):
    (plain,) = translator.search(["some words"])[0]
    tokens = translator.tokenizer.target.encode(plain.text)
    piece = translator.tokenizer.target.piece(tokens[0])
    (other,) = with_decoding(translator, suppressed=(piece,)).search(["some words"])[0]
    assert plain.text and tokens[0] not in translator.tokenizer.target.encode(other.text)
    with pytest.raises(ValueError, match="no token 'no such token'"):
        with_decoding(translator, suppressed=("no such token",)).translate(["a"])
