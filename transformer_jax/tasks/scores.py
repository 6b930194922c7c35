"""Scores of predictions against references, by the packages that people quote."""

import importlib
import itertools
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from sacrebleu.significance import PairedTest

from transformer_jax.nn.named import choose
from transformer_jax.tasks.text_metrics import Comet, CompoundSplitBLEU, ErrorRate, ExactMatch, Rouge

References = Sequence[str | Sequence[str]]
"""The right text of every example, or its several right texts."""


class TextScoring(NamedTuple):
    """What scores depend on beside predictions and references."""

    bleu_tokenize: str = "13a"
    """sacreBLEU's tokenizer for BLEU."""
    comet_model: str = "Unbabel/wmt22-comet-da"
    """Name or file of COMET's model."""
    sources: Sequence[str] = ()
    """The source of every example, which COMET reads."""


PLAIN = TextScoring()
"""sacreBLEU's own choices."""


class TextScore(NamedTuple):
    """A score of texts, in percent."""

    metric: Callable[[TextScoring], Metric]
    """Makes the metric of sacreBLEU, or of the same form; ValueError where a package or a file is missing."""
    signature: str = ""
    """What the text is called that says how it was computed; empty: there is nothing to say."""
    better: Literal["lower", "higher"] = "higher"


def text_scores(
    hypotheses: Sequence[str],
    references: References,
    names: Sequence[str],
    scoring: TextScoring = PLAIN,
    *,
    bootstrap: int = 0,
) -> dict[str, Any]:
    """The named scores, each in percent, and the signatures that say how they were computed.

    With `bootstrap` resamples of the examples (Koehn 2004), also the `_mean` of each score over these, and half of
    its 95 % interval around that as `_confidence`, both by sacreBLEU.
    """
    streams = _streams(references, hypotheses)
    scores: dict[str, Any] = {}
    for name, metric in text_metrics(names, scoring).items():
        result = metric.corpus_score(list(hypotheses), streams, n_bootstrap=bootstrap)
        scores[name] = float(result.score)
        if bootstrap > 1:
            scores |= {f"{name}_mean": float(result._mean), f"{name}_confidence": float(result._ci)}
        if signature := SCORES[name].signature:
            scores[signature] = str(metric.get_signature())
    return scores


def compare_texts(
    first: Sequence[str],
    second: Sequence[str],
    references: References,
    names: Sequence[str],
    scoring: TextScoring = PLAIN,
    *,
    resamples: int = 1000,
) -> dict[str, dict[str, Any]]:
    """Scores of two lists of predictions, and how surely they differ, by sacreBLEU's paired bootstrap (Koehn 2004).

    By name of the score: those of both, their means over the resamples with half of the 95 % interval, the p-value of
    their difference (1 where there is none), and the signature.
    """
    streams = _streams(references, first, second)
    compared: dict[str, dict[str, Any]] = {}
    for name, metric in text_metrics(names, scoring).items():
        systems: list[tuple[str, Sequence[str]]] = [("first", list(first)), ("second", list(second))]
        test = PairedTest(systems, {name: metric}, streams, test_type="bs", n_samples=resamples)
        signatures, results = test()
        ((title, signature),) = signatures.items()
        both: list[Any] = results[title]
        compared[name] = {
            "scores": [float(result.score) for result in both],
            "means": [float(result.mean) for result in both],
            "confidence": [float(result.ci) for result in both],
            # sacreBLEU counts the resamples that differ by more than the texts do: none of two equal lists.
            "p_value": float(both[1].p_value) if both[0].score != both[1].score else 1.0,
            "signature": str(signature),
        }
    return compared


def text_metrics(names: Sequence[str], scoring: TextScoring) -> Mapping[str, Metric]:
    """The metrics of the named scores; ValueError for an unknown name."""
    return {name: choose("score", name, SCORES).metric(scoring) for name in names}


def check_scores(names: Sequence[str], bleu_tokenize: str) -> None:
    """Raises ValueError for an unknown score or tokenizer of sacreBLEU."""
    for name in names:
        choose("score", name, SCORES)
    if bleu_tokenize not in BLEU.TOKENIZERS:
        raise ValueError(f"unknown task.bleu_tokenize {bleu_tokenize!r}; known: {', '.join(map(str, BLEU.TOKENIZERS))}")


def _streams(references: References, *systems: Sequence[str]) -> list[Any]:
    """References as sacreBLEU takes them: the first of every example, the second, ...; None where there is no more."""
    for hypotheses in systems:
        if len(hypotheses) != len(references):
            raise ValueError(f"{len(hypotheses)} predictions, but references for {len(references)}")
    several = [[one] if isinstance(one, str) else list(one) for one in references]
    return [list(stream) for stream in itertools.zip_longest(*several)]


def _bleu(scoring: TextScoring, kind: type[BLEU] = BLEU) -> Metric:
    """BLEU; ValueError when its tokenizer needs a package or a download that is not there."""
    tokenize = scoring.bleu_tokenize
    try:
        return kind(tokenize=tokenize, force=True)
    except (ImportError, RuntimeError, AssertionError, OSError, SystemExit) as error:
        why = " ".join(str(error).split()) if isinstance(error, ImportError | RuntimeError) else f"a download: {error}"
        raise ValueError(f"task.bleu_tokenize {tokenize} needs what is not there: {why}") from error


ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
SCORES: dict[str, TextScore] = {
    "bleu": TextScore(_bleu, "signature"),
    "compound_split_bleu": TextScore(partial(_bleu, kind=CompoundSplitBLEU)),
    "chrf": TextScore(lambda _: CHRF(), "chrf_signature"),
    "chrf++": TextScore(lambda _: CHRF(word_order=2), "chrf++_signature"),
    "ter": TextScore(lambda _: TER(), "ter_signature", better="lower"),
    **{kind: TextScore(lambda _, kind=kind: Rouge(kind), "rouge_signature") for kind in ROUGES},
    "comet": TextScore(lambda scoring: Comet(scoring.comet_model, scoring.sources), "comet_signature"),
    "wer": TextScore(lambda _: ErrorRate("wer"), "wer_signature", better="lower"),
    "cer": TextScore(lambda _: ErrorRate("cer"), "wer_signature", better="lower"),
    "exact_match": TextScore(lambda _: ExactMatch("exact_match")),
}


LABEL_SCORES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "accuracy": ("sklearn.metrics", "accuracy_score", {}),
    "f1": ("sklearn.metrics", "f1_score", {"average": "macro"}),
    "matthews": ("sklearn.metrics", "matthews_corrcoef", {}),
}
NUMBER_SCORES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "pearson": ("scipy.stats", "pearsonr", {}),
    "spearman": ("scipy.stats", "spearmanr", {}),
}


def agreement_scores(predicted: Any, right: Any, names: Sequence[str]) -> dict[str, float]:
    """The named scores of predicted labels, in percent, or numbers: correlations, NaN where one is undefined."""
    scores = {}
    for name in names:
        module, function, options = choose("score", name, LABEL_SCORES | NUMBER_SCORES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a correlation with a constant is undefined
            score = getattr(importlib.import_module(module), function)(right, predicted, **options)
        scores[name] = float(score[0] if name in NUMBER_SCORES else 100 * score)
    return scores


def squad_scores(predicted: Sequence[str], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact match and F1 of words, in percent, after lower-casing and without punctuation, articles and extra space.

    As in the evaluation of SQuAD 1.1 (Rajpurkar et al. 2016, section 6.1): each with the best of a question's answers.
    """
    pairs = [(_words(one), list(map(_words, others))) for one, others in zip(predicted, right, strict=True)]
    count = max(len(pairs), 1)
    exact = sum(one in others for one, others in pairs)
    overlaps = sum(max(_overlap(one, other) for other in others) for one, others in pairs)
    return {"exact_match": 100 * exact / count, "f1": 100 * overlaps / count}


def _words(text: str) -> list[str]:
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _overlap(predicted: list[str], right: list[str]) -> float:
    """F1 of the words that two answers share."""
    shared = sum((Counter(predicted) & Counter(right)).values())
    return 2 * shared / (len(predicted) + len(right)) if shared else 0.0
