"""Classification and regression of texts and pairs of texts, by an encoder-only model (Devlin et al. 2019)."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Lt
from jaxtyping import Array, Float, PRNGKeyArray

from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.config import DataConfig
from transformer_jax.data.examples import Kind
from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.labels import Labels
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples
from transformer_jax.data.vocabulary import VocabularyConfig
from transformer_jax.models.encoder_only import EncoderOnly, EncoderOnlyConfig
from transformer_jax.nn.named import choose
from transformer_jax.tasks.losses import class_sums
from transformer_jax.tasks.predictor import Predictor, listed
from transformer_jax.tasks.scores import LABEL_SCORES, NUMBER_SCORES, agreement_scores
from transformer_jax.tasks.sequences import join_parts, token_types
from transformer_jax.tasks.task import Sums, Task, Tokenizers, means_of, resolved

Text = str | Sequence[str]
"""A text, or the parts of a pair."""


@dataclass(frozen=True)
class Classification(Task):
    """Learns the `label` of a `text`: one of those in the train split or, with `regression`, a number."""

    features: ClassVar[tuple[str, ...]] = ("text", "label")

    regression: bool = False
    """Labels are numbers, and the loss is the squared error."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the target probability that is spread over all labels."""
    scores: Annotated[tuple[str, ...], MAY_CHANGE] = ()
    """Scores of an evaluation: accuracy, f1 (the mean over labels), matthews; of numbers pearson, spearman.
    Empty: accuracy, or both correlations."""

    @property
    def measured(self) -> tuple[str, ...]:
        """The scores."""
        return self.scores or (("pearson", "spearman") if self.regression else ("accuracy",))

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return {**super().kinds, "label": "number" if self.regression else "label"}

    @property
    def columns(self) -> Columns:
        """The tokens of the text, where the pair begins, and the label's id or the number."""
        label = Column("float32" if self.regression else "int32", varying=False)
        return {"tokens": Column(), "first": Column(varying=False), "label": label}

    def vocabularies(self, data: DataConfig) -> dict[str, VocabularyConfig]:
        texts: dict[str, VocabularyConfig] = dict.fromkeys(self.features[:-1], data.tokenizer)
        return texts if self.regression else texts | {"label": Labels()}

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """The joined parts of texts, the length of the first, and a label's id or a number."""
        tokens, first = zip(*join_parts(tokenizers["text"], self._texts(examples), max_length), strict=True)
        number = float if self.regression else tokenizers["label"].id
        return {"tokens": [*tokens], "first": [*first], "label": [number(example["label"]) for example in examples]}

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderOnlyConfig:
        if not self.regression and vocab_sizes["label"] < 2:
            raise ValueError("all examples to learn from have the same label; there is nothing to tell apart")
        for score in self.measured:
            choose("score", score, NUMBER_SCORES if self.regression else LABEL_SCORES)
        outputs = 1 if self.regression else vocab_sizes["label"]
        text = vocab_sizes["text"]
        return resolved(self, model, EncoderOnlyConfig, data, text, head="sequence", num_outputs=outputs)

    def loss(self, model: EncoderOnly, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """`loss`: cross-entropy, or the squared error; of labels also `nll`, without smoothing, and `accuracy`."""
        tokens, lengths, label = batch["tokens"], batch["tokens_length"], batch["label"]
        outputs = model(tokens, lengths=lengths, token_types=token_types(tokens, batch["first"]), key=key)
        weights = (lengths > 0).astype(jnp.float32)
        count = jnp.sum(weights)
        if self.regression:
            errors = jnp.square(outputs[:, 0] - label)
            return {"loss": (jnp.sum(jnp.where(weights > 0, errors, 0)), count)}
        return class_sums(outputs, label, weights, label_smoothing=self.label_smoothing)

    def predictor(self, model: EncoderOnly, tokenizers: Tokenizers, data: DataConfig) -> "Classifier":
        """The model with `classify`, `probabilities` and `embed`."""
        labels, parts = None if self.regression else tokenizers["label"], len(self.features) - 1
        return Classifier(model, tokenizers["text"], labels, max_length=data.max_length, parts=parts)

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        return {"loss": "lower", **dict.fromkeys(self.measured, "higher")}

    def check_evaluation(self, tokenizers: Tokenizers, examples: EncodedExamples, *, max_length: int) -> None:
        agreement_scores(np.array([0, 1]), np.array([0, 1]), self.measured)

    def evaluate(self, predictor: "Classifier", examples: EncodedExamples) -> dict[str, Any]:
        """Scores of the most probable labels, in percent, or of numbers, from -1 to 1."""
        outputs = np.stack(predictor.for_each(_outputs, examples.column("tokens"), examples.column("first")))
        predicted = outputs[:, 0] if self.regression else outputs.argmax(axis=1)
        right = np.array(examples.of_row("label"), float) if self.regression else np.array(examples.column("label"))
        return {"examples": len(examples)} | agreement_scores(predicted, right, self.measured)

    def samples(self, predictor: "Classifier", examples: Sequence[Example]) -> list[str]:
        """The beginnings of texts and their most probable labels."""
        texts, lines = self._texts(examples), []
        for text, example, label in zip(texts, examples, predictor.classify(texts), strict=True):
            lines.append(" | ".join(" ".join(part.split())[:80] for part in text))
            lines.append(f"  -> {label}" + ("" if label == example["label"] else f"  (not {example['label']})"))
        return lines

    def _texts(self, examples: Sequence[Example]) -> list[list[str]]:
        """The parts of every text."""
        return [[example[name] for name in self.features[:-1]] for example in examples]


@dataclass(frozen=True)
class PairClassification(Classification):
    """Learns the `label` of two texts, `text` and `pair`."""

    features: ClassVar[tuple[str, ...]] = ("text", "pair", "label")


@dataclass(frozen=True)
class LabelTask(Task):
    """Learns the `label` of what is no text: the first feature, which another task encodes, inherited behind this."""

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the target probability that is spread over all labels."""

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return {**super().kinds, "label": "label"}

    @property
    def columns(self) -> Columns:
        """Those of the other task, and the label's id."""
        return {**super().columns, "label": Column(varying=False)}

    def vocabularies(self, data: DataConfig) -> dict[str, VocabularyConfig]:
        return {"label": Labels()}

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """What the other task encodes, and the ids of labels."""
        labels = [tokenizers["label"].id(example["label"]) for example in examples]
        return {**super().encode(tokenizers, examples, max_length=max_length), "label": labels}

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderOnlyConfig:
        outputs = vocab_sizes["label"]
        head = "sequence" if outputs else "none"  # of an imported model without labels
        changes = {"head": head, "num_outputs": outputs, "input": self.input_of(model, data)}
        return resolved(self, model, EncoderOnlyConfig, data, 0, **changes)

    def label_sums(self, logits: Float[Array, "batch outputs"], batch: Mapping[str, Array]) -> Sums:
        """`loss`, `nll`, without smoothing, `accuracy`, and `top_5`: whether the label is among the five best."""
        label, real = batch["label"], (batch["example"] >= 0).astype(jnp.float32)
        _, best = jax.lax.top_k(logits, min(5, logits.shape[-1]))
        among = jnp.sum((best == label[:, None]).any(axis=1) * real), jnp.sum(real)
        return {**class_sums(logits, label, real, label_smoothing=self.label_smoothing), "top_5": among}

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        return {"loss": "lower", "accuracy": "higher", "top_5": "higher"}

    def loss_metrics(self, sums: Mapping[str, tuple[float, float]], examples: Sequence[Example]) -> dict[str, Any]:
        """The loss without smoothing; how often the label is the most probable or among five, in percent."""
        means = means_of(sums)
        return {"loss": means["nll"], "accuracy": 100 * means["accuracy"], "top_5": 100 * means["top_5"]}


@dataclass(eq=False, repr=False)
class LabelPredictor(Predictor):
    """Labels (or, without `labels`, numbers) for what `outputs` takes."""

    labels: Labels | None

    def classify(self, items: Sequence[Any]) -> list[Any]:
        """The most probable label of every item, or its number."""
        outputs = self.outputs(items)
        if self.labels is None:
            return outputs[:, 0].tolist()
        return [self.labels.names[best] for best in outputs.argmax(axis=1)]

    def probabilities(self, items: Sequence[Any]) -> list[dict[str, float]]:
        """The probability of every label, most probable first; ValueError for a model of numbers."""
        if self.labels is None:
            raise ValueError("a model of numbers has no probabilities; use classify")
        names = self.labels.names
        rows = np.asarray(jax.nn.softmax(self.outputs(items), axis=-1))
        return [{names[i]: float(row[i]) for i in np.argsort(-row, kind="stable")} for row in rows]

    def predict(self, lines: Sequence[Any]) -> list[str]:
        """The labels or numbers of `classify` as text."""
        return [str(label) for label in self.classify(lines)]

    def outputs(self, items: Sequence[Any]) -> Float[np.ndarray, "items outputs"]:
        """The model's predictions, before any softmax."""
        raise NotImplementedError


@dataclass(eq=False, repr=False)
class Classifier(LabelPredictor):
    """Labels or numbers for texts, which are cut off at `max_length` tokens as in training."""

    _: KW_ONLY
    parts: int
    """Texts that belong together: 2 of a model of pairs."""

    def predict(self, lines: Sequence[str]) -> list[str]:
        """The labels or numbers of `classify` as text; a line has the parts of a pair with a tab between them."""
        return super().predict([line.split("\t", self.parts - 1) for line in listed(lines)])

    def outputs(self, texts: Sequence[Text]) -> Float[np.ndarray, "texts outputs"]:
        """The model's predictions, before any softmax."""
        joined = self._joined(texts)
        rows = self.for_each(_outputs, [ids for ids, _ in joined], [first for _, first in joined])
        return np.stack(rows) if rows else np.zeros((0, 1), np.float32)

    def encoded(self, texts: Sequence[Text]) -> list[list[int]]:
        """The tokens of every text, cut off where it is too long."""
        return [ids for ids, _ in self._joined(texts)]

    def _joined(self, texts: Sequence[Text]) -> list[tuple[list[int], int]]:
        if isinstance(texts, str):
            raise TypeError("give a list of texts, as in [text], not one string")
        parts = [[text] if isinstance(text, str) else list(text) for text in texts]
        for line, text in enumerate(parts, 1):
            if len(text) != self.parts:
                raise ValueError(f"line {line} has {len(text)} parts; the model was trained on {self.parts}")
        return join_parts(self.tokenizer, parts, self.max_length)


@jax.jit
def _outputs(model: EncoderOnly, tokens: Array, lengths: Array, first: Array) -> Array:
    return model(tokens, lengths=lengths, token_types=token_types(tokens, first))
