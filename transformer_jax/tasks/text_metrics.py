"""Scores of texts as metrics of sacreBLEU, whose bootstrap and paired test then hold for all of them alike."""

import functools
import json
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
from sacrebleu.metrics.base import Metric, Score, Signature
from sacrebleu.metrics.bleu import BLEU


class CompoundSplitBLEU(BLEU):
    """BLEU with hyphenated compounds taken apart, for comparison with the scores of Vaswani et al. 2017.

    The script behind those scores writes `##AT##-##AT##` for every hyphen between two characters of a token
    (github.com/tensorflow/tensor2tensor, utils/get_ende_bleu.sh); here this follows sacreBLEU's tokenizer.
    """

    def _preprocess_segment(self, sent: str) -> str:
        return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", super()._preprocess_segment(sent))


class MeanMetric(Metric):
    """The mean of a number from 0 to 1 for every example, in percent. Subclasses override `of_example`."""

    def __init__(self, name: str, **facts: str):
        super().__init__()
        self.name, self.facts = name, facts

    def of_example(self, hypothesis: str, references: Sequence[str]) -> float:
        """The number of one prediction."""
        raise NotImplementedError

    def get_signature(self) -> Signature:
        """The counts that sacreBLEU gives of every metric, and this one's facts."""
        signature = super().get_signature()
        for name, value in self.facts.items():
            signature.update(name, value)
        return signature

    def _preprocess_segment(self, sent: str) -> str:
        return sent

    def _extract_reference_info(self, refs: Sequence[str]) -> dict[str, Any]:
        return {"references": refs}

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: dict[str, Any]) -> list[float]:
        return [self.of_example(hypothesis, ref_kwargs["references"]), 1.0]

    def _compute_score_from_stats(self, stats: Any) -> Score:
        total, count = stats
        return Score(self.name, 100 * float(total) / float(count))

    def _aggregate_and_compute(self, stats: list[list[float]]) -> Score:
        return self._compute_score_from_stats(np.sum(stats, axis=0))


class ExactMatch(MeanMetric):
    """How many predictions are one of their references."""

    def of_example(self, hypothesis: str, references: Sequence[str]) -> float:
        return float(hypothesis in references)


class ErrorRate(MeanMetric):
    """Word error rate (wer) or character error rate (cer): edits for 100 words or characters, by the package jiwer.

    Both texts are compared in lower case, without punctuation but for apostrophes in words, and with one space between
    words (`spoken`). Of several references the one with the lowest rate counts.
    """

    def __init__(self, name: str):
        try:
            import jiwer
        except ImportError as error:
            raise ValueError("error rates need the package jiwer: pip install '.[audio]'") from error
        super().__init__(name, case="lc", punctuation="no", version=f"jiwer-{version('jiwer')}")
        self.process = {"wer": jiwer.process_words, "cer": jiwer.process_characters}[name]

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: dict[str, Any]) -> list[float]:
        said = spoken(hypothesis)

        def edits(right: str) -> list[float]:
            if not right:  # of which jiwer has no rate
                return [float(len(said.split() if self.name == "wer" else said)), 0.0]
            found = self.process(right, said)
            wrong = found.substitutions + found.deletions
            return [float(wrong + found.insertions), float(wrong + found.hits)]

        return min(
            (edits(spoken(right)) for right in ref_kwargs["references"]), key=lambda pair: pair[0] / (pair[1] or 1)
        )

    def _compute_score_from_stats(self, stats: Any) -> Score:
        return super()._compute_score_from_stats((stats[0], max(float(stats[1]), 1.0)))


def spoken(text: str) -> str:
    """A text in lower case and NFKC, without what is neither letter, mark, number nor an apostrophe in a word."""
    text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return " ".join(filter(None, (word.strip("'") for word in kept.split())))


class Rouge(MeanMetric):
    """F1 of ROUGE (Lin 2004) by the package rouge-score, with Porter's stemmer and the best of several references.

    The package lower-cases and knows the letters a to z and digits alone: it is for English.
    """

    def __init__(self, kind: str):
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError as error:
            raise ValueError("ROUGE needs the package rouge-score: pip install '.[rouge]'") from error
        super().__init__(kind, case="lc", stem="porter", tok="rouge-score", version=version("rouge-score"))
        self.scorer = RougeScorer([kind], tokenizer=_stems())

    def of_example(self, hypothesis: str, references: Sequence[str]) -> float:
        return self.scorer.score_multi(references, hypothesis)[self.name].fmeasure


@functools.cache
def _stems() -> Any:
    """The tokenizer of ROUGE; stems take most of the time, and each kind of ROUGE needs those of the same texts."""
    from rouge_score.tokenizers import DefaultTokenizer

    return SimpleNamespace(tokenize=functools.lru_cache(maxsize=100_000)(DefaultTokenizer(use_stemmer=True).tokenize))


class Comet(MeanMetric):
    """COMET (Rei et al. 2020) by the command `comet-score` of the package unbabel-comet; the mean over references.

    The command may belong to another environment: the package needs an older NumPy than JAX does.
    """

    def __init__(self, model: str, sources: Sequence[str]):
        super().__init__("comet", model=model)
        self.sources = sources
        self.command = shutil.which("comet-score")
        if self.command is None:
            raise ValueError(
                "COMET needs the command comet-score: pipx install unbabel-comet (its NumPy is older than JAX's, so it "
                "has to be in an environment of its own)"
            )

    def _extract_corpus_statistics(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]] | None
    ) -> list[list[float]]:
        lists = [info["references"] for info in self._cache_references(references or ())]
        if not len(self.sources) == len(hypotheses) == len(lists):
            counts = f"{len(self.sources)} sources, {len(hypotheses)} predictions and {len(lists)} references"
            raise ValueError(f"COMET needs as many of each: {counts}")
        rows = zip(self.sources, hypotheses, lists, strict=True)
        scores = iter(self._scores([(source, text, one) for source, text, several in rows for one in several]))
        return [[sum(next(scores) for _ in several) / len(several), 1.0] for several in lists]

    def _scores(self, rows: Sequence[tuple[str, str, str]]) -> list[float]:
        """A score for every (source, prediction, reference); ValueError with what the command wrote if it fails."""
        with TemporaryDirectory() as directory:
            files = [Path(directory, name) for name in ("sources", "translations", "references", "scores.json")]
            for file, texts in zip(files[:3], zip(*rows, strict=True), strict=True):
                # The command reads a text a line.
                file.write_text("".join(f"{' '.join(text.split())}\n" for text in texts), encoding="utf-8")
            names = ("--sources", "--translations", "--references", "--to_json")
            options = [part for pair in zip(names, map(str, files), strict=True) for part in pair]
            arguments = [self.command or "", *options, "--model", self.facts["model"], "--quiet", "--only_system"]
            done = subprocess.run(arguments, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
                raise ValueError(f"comet-score fails with model {self.facts['model']}: {''.join(last)}")
            (scored,) = json.loads(files[3].read_text(encoding="utf-8")).values()
        return [row["COMET"] for row in scored]
