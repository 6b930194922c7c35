"""Tasks whose answer is a text: its loss, and its scores against one right answer or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax.numpy as jnp
from annotated_types import Ge, Lt
from jaxtyping import Array

from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples
from transformer_jax.nn.named import choose
from transformer_jax.tasks.losses import cross_entropy
from transformer_jax.tasks.scores import SCORES, TextScoring, text_scores
from transformer_jax.tasks.task import Sums, Task, Tokenizers


@dataclass(frozen=True)
class TextTask(Task):
    """Learns the text that is its last feature, by an encoder-decoder model."""

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the target probability that is spread over all tokens."""
    z_loss: Annotated[float, Ge(0)] = 0.0
    """Weight of the squared log-normaliser in the loss, such as 1e-4; in `loss`, not in `nll`."""
    scores: Annotated[tuple[str, ...], MAY_CHANGE] = ("bleu", "chrf")
    """Scores of an evaluation: bleu, compound_split_bleu, chrf, chrf++, ter, rouge1, rouge2, rougeL, rougeLsum, comet,
    exact_match."""
    bleu_tokenize: str = "13a"
    """sacreBLEU's tokenizer; none for text that is already tokenised."""
    bootstrap: Annotated[int, Ge(0), MAY_CHANGE] = 0
    """Resamples of the examples for the 95 % interval of each score, 1000 as a rule; 0: no intervals."""
    references: Annotated[tuple[str, ...], MAY_CHANGE] = ("references",)
    """What examples with several right targets call the others: a text, or a list that may begin with the target."""

    def target_sums(self, model: Any, logits: Array, target: Array, lengths: Array) -> Sums:
        """`loss`, with label smoothing, and `nll`, without; each over the tokens behind the first of every target."""
        # The last column sees itself as its next token; it is past every length and weighs nothing.
        labels = jnp.concatenate([target[:, 1:], target[:, -1:]], axis=1)
        settings = {"label_smoothing": self.label_smoothing, "z_loss": self.z_loss}
        smoothed, plain = cross_entropy(logits, labels, vocab_size=model.embedding.vocab_size, **settings)
        weights = (jnp.arange(target.shape[1])[None] < lengths[:, None] - 1).astype(jnp.float32)
        tokens = jnp.sum(weights)
        return {"loss": (jnp.sum(smoothed * weights), tokens), "nll": (jnp.sum(plain * weights), tokens)}

    def num_tokens(self, batch: Mapping[str, Any]) -> Array:
        """Target tokens that are predicted."""
        return jnp.sum(jnp.maximum(batch[f"{self.features[-1]}_length"] - 1, 0))

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        return {"loss": "lower", **{name: choose("score", name, SCORES).better for name in self.scores}}

    def check_evaluation(self, tokenizers: Tokenizers, examples: EncodedExamples, *, max_length: int) -> None:
        list(map(self.right, examples))
        text_scores(["a"], ["a"], self.scores, self.scoring([dict.fromkeys(self.features, "a")]))

    def evaluate(self, predictor: Any, examples: EncodedExamples) -> dict[str, Any]:
        """The scores of the texts; examples that are longer than the model takes are counted as `skipped`."""
        texts = self.outputs(predictor, examples)
        skipped = len(examples) - len(texts)
        counts = {"examples": len(texts)} | ({"skipped": skipped} if skipped else {})
        return counts | self.scores_of(texts, [examples[index] for index in examples.of_rows])

    def outputs(self, predictor: Any, examples: EncodedExamples) -> list[str]:
        """The texts that are predicted for the examples that have a row, `examples.of_rows`."""
        raise NotImplementedError

    def scores_of(self, texts: Sequence[str], examples: Sequence[Example]) -> dict[str, Any]:
        """The scores of one text for every example."""
        right = list(map(self.right, examples))
        return text_scores(texts, right, self.scores, self.scoring(examples), bootstrap=self.bootstrap)

    def scoring(self, examples: Sequence[Example]) -> TextScoring:
        """What scores depend on, beside the texts."""
        return TextScoring(self.bleu_tokenize)

    def right(self, example: Example) -> list[str]:
        """The right targets of an example; ValueError for what is neither text nor a list of texts."""
        targets = [example[self.features[-1]]]
        for name in self.references:
            more = example.get(name) or []
            several = [more] if isinstance(more, str) else more
            if not isinstance(several, list) or not all(isinstance(text, str) for text in several):
                raise ValueError(f"task.references: {name!r} of an example is neither text nor a list of texts: {more}")
            targets = several if several is more and several[:1] == targets else [*targets, *several]
        return [text for text in targets if text.strip()] or targets[:1]
