import importlib.metadata
import sys
from collections.abc import Sequence

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from sacrebleu.significance import PairedTest, Result

from transformer_jax.tasks.scores import SCORES, TextScoring, check_scores, compare_texts, text_scores

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
    scores = text_scores(HYPOTHESES, REFERENCES, ["bleu"], TextScoring(tokenize))
    assert scores["bleu"] == pytest.approx(bleu(HYPOTHESES, REFERENCES, tokenize=tokenize), abs=1e-9)
    assert 10 < scores["bleu"] < 90
    assert f"tok:{tokenize}" in scores["signature"] and "case:mixed" in scores["signature"]
    assert f"version:{sacrebleu.__version__}" in scores["signature"]


def test_tokenisers_give_different_bleu():
    by_name = {
        name: text_scores(HYPOTHESES, REFERENCES, ["bleu"], TextScoring(name))["bleu"] for name in ("13a", "none")
    }
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
    with pytest.raises(ValueError, match="1 predictions, but references for 2"):
        text_scores(["a"], ["a", "b"], ["exact_match"])


def test_what_right_translations_score_is_100():
    scores = text_scores(REFERENCES, REFERENCES, ["bleu", "compound_split_bleu", "chrf", "exact_match"])
    assert [value for value in scores.values() if isinstance(value, float)] == pytest.approx([100] * 4)


def test_an_unknown_score_or_tokeniser_is_refused_in_one_line_that_lists_the_known():
    for names, tokenize, message in (
        (["bleu", "blue"], "13a", "unknown score 'blue'; known: bleu, compound_split_bleu, chrf, .*, exact_match"),
        (["bleu"], "14a", "unknown task.bleu_tokenize '14a'; known: .*13a"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            check_scores(names, tokenize)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="unknown score 'blue'"):
        text_scores(["a"], ["a"], ["blue"])
    check_scores(["bleu", "compound_split_bleu", "chrf", "exact_match"], "13a")


# Several references, intervals, comparisons


SEVERAL = [[text, f"Perhaps {text.lower()}"] for text in REFERENCES[:2]] + [["A child goes into a play house."]]
"""Not equally many."""
STREAMS = [[texts[0] for texts in SEVERAL], [*(texts[1] for texts in SEVERAL[:2]), None]]
METRICS = {"bleu": BLEU(force=True), "chrf": CHRF(), "chrf++": CHRF(word_order=2), "ter": TER()}


def test_scores_with_several_references_and_intervals_are_those_of_sacrebleu():
    scores = text_scores(HYPOTHESES, SEVERAL, [*METRICS], bootstrap=200)
    for name, metric in METRICS.items():
        result = metric.corpus_score(HYPOTHESES, STREAMS, n_bootstrap=200)
        found = [scores[name], scores[f"{name}_mean"], scores[f"{name}_confidence"]]
        assert found == pytest.approx([result.score, result._mean, result._ci]), name
        assert scores[SCORES[name].signature] == str(metric.get_signature()), name
    assert "nrefs:var|bs:200|seed:12345" in scores["ter_signature"] and scores["ter_confidence"] > 0
    assert scores["bleu"] != text_scores(HYPOTHESES, REFERENCES, ["bleu"])["bleu"]


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_is_the_mean_of_the_best_references_and_names_its_version(kind):
    scorer = RougeScorer([kind], use_stemmer=True)
    pairs = zip(HYPOTHESES, SEVERAL, strict=True)
    best = [max(scorer.score(one, text)[kind].fmeasure for one in several) for text, several in pairs]
    scores = text_scores(HYPOTHESES, SEVERAL, [kind], bootstrap=100)
    assert scores[kind] == pytest.approx(100 * sum(best) / len(best))
    assert 0 < scores[f"{kind}_confidence"] < 50
    assert (
        f"stem:porter|tok:rouge-score|version:{importlib.metadata.version('rouge-score')}" in scores["rouge_signature"]
    )


def test_a_missing_package_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ValueError, match=r"ROUGE needs the package rouge-score: pip install '.\[rouge\]'"):
        text_scores(["a"], ["a"], ["rouge1"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="COMET needs the command comet-score: pipx install unbabel-comet"):
        text_scores(["a"], ["a"], ["comet"])


COMET = """#!{python}
import json, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if options["--model"] == "broken":
    sys.exit("this model is broken")
rows = zip(*([line.rstrip("\\n") for line in open(options[f"--{{name}}"], encoding="utf-8")]
             for name in ("sources", "translations", "references")))
scored = [dict(src=s, mt=t, ref=r, COMET=len(set(f"{{s}} {{t}}".split()) & set(r.split())) / 10) for s, t, r in rows]
json.dump({{options["--translations"]: scored}}, open(options["--to_json"], "w"))
"""


def test_comet_reads_a_text_a_line_and_means_over_references(monkeypatch, tmp_path):
    """With a program that takes the command's options and counts common words."""
    (tmp_path / "comet-score").write_text(COMET.format(python=sys.executable))
    (tmp_path / "comet-score").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    scoring = TextScoring(comet_model="a/model", sources=["x\ny", "z"])
    scores = text_scores(["a b", "c"], [["a y", "q"], ["c"]], ["comet"], scoring, bootstrap=50)
    assert scores["comet"] == pytest.approx(100 * ((0.2 + 0.0) / 2 + 0.1) / 2)
    assert "nrefs:var" in scores["comet_signature"] and "model:a/model" in scores["comet_signature"]
    with pytest.raises(ValueError, match="comet-score fails with model broken: this model is broken"):
        text_scores(["a"], ["a"], ["comet"], TextScoring(comet_model="broken", sources=["a"]))
    with pytest.raises(ValueError, match="0 sources, 1 predictions and 1 references"):
        text_scores(["a"], ["a"], ["comet"])


def test_a_comparison_is_sacrebleus_paired_bootstrap():
    other = [*HYPOTHESES[:2], "A girl goes into a house."]
    compared = compare_texts(HYPOTHESES, other, SEVERAL, [*METRICS, "rouge1"], resamples=300)
    systems: list[tuple[str, Sequence[str]]] = [("one", HYPOTHESES), ("other", other)]
    signatures, results = PairedTest(systems, METRICS, STREAMS, test_type="bs", n_samples=300)()
    for name, title in zip(METRICS, ("BLEU", "chrF2", "chrF2++", "TER"), strict=True):
        pair, found = [one for one in results[title] if isinstance(one, Result)], compared[name]
        assert found["scores"] == [result.score for result in pair] and found["p_value"] == pair[1].p_value
        assert found["means"] == [result.mean for result in pair]
        assert found["confidence"] == [result.ci for result in pair]
        assert found["signature"] == str(signatures[title])
    assert compared["rouge1"]["scores"] == [
        text_scores(texts, SEVERAL, ["rouge1"])["rouge1"] for texts in (HYPOTHESES, other)
    ]


def test_the_paired_bootstrap_tells_a_difference_from_none():
    texts = [f"the {n} cats sat on the mat" for n in range(60)]
    worse = [text.replace("sat", "sit") if n % 2 else text for n, text in enumerate(texts)]
    swapped = [text.replace("sat", "sit") if not n % 2 else text for n, text in enumerate(texts)]
    assert compare_texts(worse, texts, texts, ["rouge1"])["rouge1"]["p_value"] < 0.01
    assert compare_texts(texts, texts, texts, ["bleu"])["bleu"]["p_value"] == 1
    assert compare_texts(worse, swapped, texts, ["rouge1"])["rouge1"]["p_value"] > 0.3
