"""Summarisation: a text to a short one, by an encoder-decoder model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge

from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples
from transformer_jax.tasks.translation import Decoding, Translation, Translator

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^\sa-z])|\n\s*\n")
"""White space behind a full stop, question or exclamation mark, with no small letter behind it; or an empty line."""


@dataclass(frozen=True)
class Summarisation(Translation):
    """Learns the summary `target` of a text `source`, of which what is beyond data.max_length is not read."""

    decoding: Annotated[Decoding, MAY_CHANGE] = field(
        default_factory=lambda: Decoding(max_new_tokens=128, no_repeat_ngram=3)
    )
    """How summaries are searched."""
    scores: Annotated[tuple[str, ...], MAY_CHANGE] = ("rouge1", "rouge2", "rougeL")
    """Scores of an evaluation, as of a translation."""
    truncate: bool = True
    lead: Annotated[int, Ge(0), MAY_CHANGE] = 0
    """The first so many sentences of the source are scored as well, as `lead_rouge1` and so on; 0: they are not."""

    def evaluate(self, predictor: Translator, examples: EncodedExamples) -> dict[str, Any]:
        """The scores of the summaries, and those of the lead of their sources."""
        scores = super().evaluate(predictor, examples)
        if not self.lead:
            return scores
        kept = [examples[index] for index in examples.of_rows]
        of_lead = self.scores_of([first_sentences(example[self.features[0]], self.lead) for example in kept], kept)
        return scores | {f"lead_{name}": value for name, value in of_lead.items() if isinstance(value, float)}

    def samples(self, predictor: Translator, examples: Sequence[Example]) -> list[str]:
        """Summaries below the beginnings of their sources."""
        lines = super().samples(predictor, examples)
        return [" ".join(line.split())[:200] if number % 2 == 0 else line for number, line in enumerate(lines)]


def first_sentences(text: str, count: int) -> str:
    """The first sentences of a text, a line each, as rougeLsum reads them."""
    return "\n".join(" ".join(sentence.split()) for sentence in SENTENCE_END.split(text.strip())[:count])
