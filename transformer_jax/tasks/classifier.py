"""A trained classifier as people use it: texts in, labels out."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from transformer_jax.data.labels import Labels
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.models.encoder_only import EncoderOnly
from transformer_jax.parallel.axes import constrain
from transformer_jax.tasks.encoder import embeddings, joined, second
from transformer_jax.tasks.rows import for_each, listed

Text = str | Sequence[str]
"""A text, or the parts of a pair."""


class Classifier:
    """Labels (or, without `labels`, numbers) for texts. Unpacks into its parts: `model, tokenizer = classifier`.

    Texts that are longer than `max_length` tokens are cut off at their ends, as in training.
    """

    def __init__(self, model: EncoderOnly, tokenizer: Tokenizer, labels: Labels | None, *, max_length: int, parts: int):
        self.model = model
        self.tokenizer = tokenizer
        self.labels = labels
        self.max_length = max_length
        self.parts = parts
        """Texts that belong together: 2 of a model of pairs."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.tokenizer))

    def classify(self, texts: Sequence[Text]) -> list[Any]:
        """The most probable label of every text, or its number."""
        outputs = self.outputs(texts)
        if self.labels is None:
            return outputs[:, 0].tolist()
        return [self.labels.names[best] for best in outputs.argmax(axis=1)]

    def predict(self, lines: Sequence[str]) -> list[str]:
        """What `classify` gives, as text; the parts of a pair stand in one line with a tab between them."""
        return [str(found) for found in self.classify([line.split("\t", self.parts - 1) for line in listed(lines)])]

    def probabilities(self, texts: Sequence[Text]) -> list[dict[str, float]]:
        """The probability of every label, most probable first; ValueError for a model of numbers."""
        if self.labels is None:
            raise ValueError("a model of numbers has no probabilities; use classify")
        names = self.labels.names
        rows = np.asarray(jax.nn.softmax(self.outputs(texts), axis=-1))
        return [{names[i]: float(row[i]) for i in np.argsort(-row, kind="stable")} for row in rows]

    def embed(self, texts: Sequence[Text]) -> list[list[float]]:
        """A vector for every text: the mean of its tokens' vectors behind the last layer."""
        return embeddings(self.model, [tokens for tokens, _ in self._encoded(texts)])

    def outputs(self, texts: Sequence[Text]) -> Float[np.ndarray, "texts outputs"]:
        """The model's predictions, before any softmax."""
        encoded = self._encoded(texts)
        tokens, first = [ids for ids, _ in encoded], [first for _, first in encoded]
        found = for_each(partial(_outputs, self.model), tokens, first)
        return np.stack(found) if found else np.zeros((0, 1), np.float32)

    def label_id(self, label: str) -> int:
        """The number of a label; ValueError for one that there is not."""
        if self.labels is None:
            raise ValueError("a model of numbers has no labels")
        return self.labels.id(label)

    def _encoded(self, texts: Sequence[Text]) -> list[tuple[list[int], int]]:
        if isinstance(texts, str):
            raise TypeError("give a list of texts, as in [text], not one string")
        parts = [[text] if isinstance(text, str) else list(text) for text in texts]
        for line, text in enumerate(parts, 1):
            if len(text) != self.parts:
                raise ValueError(f"line {line} has {len(text)} parts; the model was trained on {self.parts}")
        return joined(self.tokenizer, parts, self.max_length)


@jax.jit
def _outputs(model: EncoderOnly, tokens: Array, lengths: Array, first: Array) -> Array:
    tokens = constrain(tokens, ("batch", "length"))
    return model(tokens, lengths=lengths, token_types=second(tokens, first))
