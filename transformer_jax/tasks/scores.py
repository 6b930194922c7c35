"""Scores of predictions against references, by the packages that people quote."""

import importlib
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from transformer_jax.nn.named import choose


def text_scores(
    hypotheses: Sequence[str], references: Sequence[str], names: Sequence[str], bleu_tokenize: str = "13a"
) -> dict[str, Any]:
    """The named scores, each in percent, and the signatures that say how BLEU and chrF were computed."""
    scores: dict[str, Any] = {}
    for name in names:
        scores |= choose("score", name, SCORES)(list(hypotheses), list(references), bleu_tokenize)
    return scores


def check_scores(names: Sequence[str], bleu_tokenize: str) -> None:
    """Raises ValueError for an unknown score or tokenizer of sacreBLEU."""
    from sacrebleu.metrics.bleu import BLEU

    for name in names:
        choose("score", name, SCORES)
    if bleu_tokenize not in BLEU.TOKENIZERS:
        raise ValueError(f"unknown task.bleu_tokenize {bleu_tokenize!r}; known: {', '.join(map(str, BLEU.TOKENIZERS))}")


def _sacrebleu(tokenize: str) -> Any:
    """sacreBLEU's metric; ValueError when its tokenizer needs a package or a download that is not there."""
    from sacrebleu.metrics.bleu import BLEU

    try:
        return BLEU(tokenize=tokenize, force=True)
    except (ImportError, RuntimeError, AssertionError, OSError, SystemExit) as error:
        why = " ".join(str(error).split()) if isinstance(error, ImportError | RuntimeError) else f"a download: {error}"
        raise ValueError(f"task.bleu_tokenize {tokenize} needs what is not there: {why}") from error


def _bleu(hypotheses: list[str], references: list[str], tokenize: str) -> dict[str, Any]:
    metric = _sacrebleu(tokenize)
    return {"bleu": metric.corpus_score(hypotheses, [references]).score, "signature": str(metric.get_signature())}


def _compound_split_bleu(hypotheses: list[str], references: list[str], tokenize: str) -> dict[str, Any]:
    """BLEU with hyphenated compounds taken apart, for comparison with the paper's scores.

    The script behind those scores writes `##AT##-##AT##` for every hyphen between two characters of a token
    (github.com/tensorflow/tensor2tensor, utils/get_ende_bleu.sh); here this follows sacreBLEU's tokenizer.
    """
    from sacrebleu.metrics.bleu import BLEU

    tokenizer = _sacrebleu(tokenize).tokenizer

    def split(texts: list[str]) -> list[str]:
        return [re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", tokenizer(text)) for text in texts]

    metric = BLEU(tokenize="none", force=True)
    return {"compound_split_bleu": metric.corpus_score(split(hypotheses), [split(references)]).score}


def _chrf(hypotheses: list[str], references: list[str], _: str) -> dict[str, Any]:
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    return {"chrf": metric.corpus_score(hypotheses, [references]).score, "chrf_signature": str(metric.get_signature())}


def _exact_match(hypotheses: list[str], references: list[str], _: str) -> dict[str, Any]:
    equal = sum(hypothesis == reference for hypothesis, reference in zip(hypotheses, references, strict=True))
    return {"exact_match": 100 * equal / max(len(references), 1)}


SCORES: dict[str, Callable[[list[str], list[str], str], dict[str, Any]]] = {
    "bleu": _bleu,
    "compound_split_bleu": _compound_split_bleu,
    "chrf": _chrf,
    "exact_match": _exact_match,
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
