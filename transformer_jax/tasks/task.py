"""What a task is: the part of a run that knows what is learnt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.config import DataConfig
from transformer_jax.data.pipeline import Batch
from transformer_jax.data.sources import Example
from transformer_jax.data.tokenizers import Tokenizer, TokenizerConfig

Tokenizers = Mapping[str, Tokenizer]
"""The tokenizer of every feature; where the vocabulary is shared, the same object."""
COUNTS = ("examples", "skipped", "tokens")
"""What `evaluate` says beside metrics: how much was scored and how many examples were left out."""
Sums = dict[str, tuple[Array, Array]]
"""Each metric as (sum, weight), so that micro-batches and devices add up and are divided once."""


@runtime_checkable
class ModelConfig(Protocol):
    """What a run asks of a model's configuration."""

    @property
    def d_model(self) -> int:
        """Width of the vectors between layers."""
        ...

    def build(self, seed: int) -> Any:
        """The model with fresh parameters, the same for the same seed."""
        ...

    def num_parameters(self) -> int:
        """Parameters that the model has."""
        ...


def resolved(task: "Task", model: Any, kind: type, data: DataConfig, vocab_size: int, **changes: Any) -> Any:
    """A model of that kind with its vocabulary size and what else changes; ValueError for what contradicts the task.

    That is a model of another kind, a vocabulary size that is set already, learned positions that do not reach, and
    vocabularies of their own for features that are read as one sequence.
    """
    name = type(task).__name__
    if not isinstance(model, kind):
        raise ValueError(f"{name} needs a model of the kind {kind.__name__}, not {type(model).__name__}")
    if not data.shared_vocabulary and list(task.vocabularies(data).values()).count(data.tokenizer) > 1:
        raise ValueError(f"{name} needs data.shared_vocabulary: its texts are one sequence")
    if model.positions == "learned" and model.max_length < data.max_length:
        raise ValueError(f"model.max_length {model.max_length} is below data.max_length {data.max_length}; raise it")
    if model.vocab_size not in (0, vocab_size):
        raise ValueError("model.vocab_size follows from the tokenizer; set data.tokenizer.vocab_size instead")
    if "num_outputs" in changes and model.num_outputs not in (0, changes["num_outputs"]):
        raise ValueError(f"model.num_outputs follows from the data, {changes['num_outputs']}; leave it out")
    return replace(model, vocab_size=vocab_size, **changes)


def means_of(sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Each metric's sum over its weight."""
    return {name: total / max(weight, 1) for name, (total, weight) in sums.items()}


@dataclass(frozen=True)
class Task:
    """From examples to loss, metrics and predictions. A task of your own overrides these methods."""

    features: ClassVar[tuple[str, ...]] = ()
    """What an example has; one that lacks some of it, or has it empty, is skipped."""
    packed: ClassVar[bool] = False
    """Whether examples are laid end to end in rows of data.max_length, rather than each in a row of its own."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What `encode` gives."""
        return self.features

    def vocabularies(self, data: DataConfig) -> dict[str, TokenizerConfig]:
        """The vocabularies of the features that are tokenised."""
        return dict.fromkeys(self.features, data.tokenizer)

    def encode(
        self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int
    ) -> dict[str, list[list[int]]]:
        """The token ids of every column of some examples, with the special tokens that the task wants.

        What is longer than `max_length` afterwards is skipped and counted, where examples are not packed.
        """
        raise NotImplementedError

    def abstract_batch(self, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The arrays of a batch, `augment` included, to go through a step without data."""
        tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
        if self.packed:
            row = jax.ShapeDtypeStruct((rows, length + 1), jnp.int32)  # inputs and what follows on each
            return dict.fromkeys(("tokens", "segments", "positions"), row)
        lengths = jax.ShapeDtypeStruct((rows,), jnp.int32)
        return dict.fromkeys(self.columns, tokens) | dict.fromkeys([f"{name}_length" for name in self.columns], lengths)

    def augment(self, batch: Batch, tokenizers: Tokenizers, *, seed: int, epoch: int) -> Batch:
        """A batch with what is drawn anew in every epoch, such as masks: a function of seed, epoch and examples."""
        return batch

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> Any:
        """The model's configuration with the sizes of the features' vocabularies filled in.

        Raises ValueError where the parts of an experiment contradict each other; it is called with made-up sizes
        before any text is read, so that such mistakes show at once.
        """
        raise NotImplementedError

    def loss(self, model: Any, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """Sums and weights of `loss` (what is differentiated) and other metrics; `key=None` is evaluation."""
        raise NotImplementedError

    def num_tokens(self, batch: Mapping[str, Any]) -> Array:
        """Tokens by which speed is measured: of `tokens`, or else of the last column, without padding."""
        if self.packed:
            return jnp.asarray(batch["tokens"].size)
        lengths = batch["tokens_length"] if "tokens_length" in batch else batch[f"{self.columns[-1]}_length"]
        return jnp.sum(lengths)

    def predictor(self, model: Any, tokenizers: Tokenizers, data: DataConfig) -> Any:
        """What a person uses the trained model with: has `predict(lines) -> list[str]`."""
        raise NotImplementedError

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        """What evaluation reports, and which values are better; `train.best` is one of them."""
        return {"loss": "lower"}

    def loss_metrics(self, sums: Mapping[str, tuple[float, float]], examples: Sequence[Example]) -> dict[str, Any]:
        """Metrics that follow from what `loss` sums up over all examples; by default `loss`.

        It is reported without label smoothing: as `nll` where there are sums of that name.
        """
        means = means_of(sums)
        return {"loss": means.get("nll", means["loss"])}

    def evaluate(self, predictor: Any, examples: Sequence[Example]) -> dict[str, Any]:
        """Metrics of the predictions for examples, by name, and `COUNTS`; those of text such as `bleu`.

        They are reported beside those of `loss_metrics`. Raises ValueError when no example can be scored.
        """
        return {}

    def samples(self, predictor: Any, examples: Sequence[Example]) -> list[str]:
        """Lines that show a person the predictions for some examples."""
        first, last = self.features[0], self.features[-1]
        predictions = predictor.predict([example[first] for example in examples])
        lines = []
        for example, prediction in zip(examples, predictions, strict=True):
            wrong = "" if prediction == example[last] else f"  (not {example[last]})"
            lines += [example[first], f"  -> {prediction}{wrong}"]
        return lines
