import pytest
import sacrebleu

from transformer_jax.tasks.scores import check_scores, text_scores

HYPOTHESES = [
    "The cat sat on the red mat, quietly.",
    "Two young well-known men are outside near many bushes.",
    "A little girl climbs into a wooden playhouse .",
]
REFERENCES = [
    "The cat sat on the mat quietly.",
    "Two young, well-known males are outside near many bushes.",
    "A little girl is climbing into a wooden playhouse.",
]


def bleu(hypotheses, references, **options):
    return sacrebleu.corpus_bleu(hypotheses, [references], force=True, **options).score


@pytest.mark.parametrize("tokenize", ["13a", "none", "char", "intl"])
def test_bleu_is_that_of_sacrebleu_and_says_how(tokenize):
    scores = text_scores(HYPOTHESES, REFERENCES, ["bleu"], tokenize)
    assert scores["bleu"] == pytest.approx(bleu(HYPOTHESES, REFERENCES, tokenize=tokenize), abs=1e-9)
    assert 10 < scores["bleu"] < 90
    assert f"tok:{tokenize}" in scores["signature"] and "case:mixed" in scores["signature"]
    assert f"version:{sacrebleu.__version__}" in scores["signature"]


def test_tokenisers_give_different_bleu():
    by_name = {name: text_scores(HYPOTHESES, REFERENCES, ["bleu"], name)["bleu"] for name in ("13a", "none")}
    assert by_name["none"] < by_name["13a"] - 1, "commas and full stops stay on their words"


def test_chrf_is_that_of_sacrebleu():
    scores = text_scores(HYPOTHESES, REFERENCES, ["chrf"])
    assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score, abs=1e-9)
    assert scores["chrf_signature"].startswith("nrefs:1")


def test_compounds_are_split_at_their_hyphens():
    # By hand: "w-x" is three tokens. Of 6 tokens 5 are right, of 5 pairs 4, of 4 triples 3, of 3 quadruples 2.
    hypothesis, reference = ["a b c w-x"], ["a b c w-y"]
    scores = text_scores(hypothesis, reference, ["compound_split_bleu"])
    assert scores["compound_split_bleu"] == pytest.approx(100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25, rel=1e-6)
    assert text_scores(hypothesis, reference, ["bleu"])["bleu"] < scores["compound_split_bleu"]


@pytest.mark.parametrize("texts", [["a - b c d e"], ["- a b c d"], ["a b c d -"]])
def test_a_hyphen_between_spaces_is_no_compound(texts):
    for name in ("bleu", "compound_split_bleu"):
        assert text_scores(texts, texts, [name])[name] == pytest.approx(100)
    reference = [texts[0].replace("a", "z")]
    split = text_scores(texts, reference, ["compound_split_bleu"])["compound_split_bleu"]
    assert split == pytest.approx(bleu(texts, reference))


def test_exact_match_is_a_percentage():
    assert text_scores(["a", "b", "c "], ["a", "x", "c"], ["exact_match"]) == {"exact_match": pytest.approx(100 / 3)}
    assert text_scores(["a"], ["a"], ["exact_match"]) == {"exact_match": 100}
    with pytest.raises(ValueError, match="shorter|longer"):
        text_scores(["a"], ["a", "b"], ["exact_match"])


def test_what_right_translations_score_is_100():
    scores = text_scores(REFERENCES, REFERENCES, ["bleu", "compound_split_bleu", "chrf", "exact_match"])
    assert [value for value in scores.values() if isinstance(value, float)] == pytest.approx([100] * 4)


def test_an_unknown_score_or_tokeniser_is_refused_in_one_line_that_lists_the_known():
    for names, tokenize, message in (
        (["bleu", "blue"], "13a", "unknown score 'blue'; known: bleu, compound_split_bleu, chrf, exact_match"),
        (["bleu"], "14a", "unknown task.bleu_tokenize '14a'; known: .*13a"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            check_scores(names, tokenize)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="unknown score 'blue'"):
        text_scores(["a"], ["a"], ["blue"])
    check_scores(["bleu", "compound_split_bleu", "chrf", "exact_match"], "13a")
