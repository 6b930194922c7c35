"""What a task is: the part of a run that knows what is learnt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Example
from transformer_jax.data.tokenizers import Tokenizer

Tokenizers = Mapping[str, Tokenizer]
"""The tokenizer of every feature; where the vocabulary is shared, the same object."""
COUNTS = ("examples", "skipped")
"""What `evaluate` says beside metrics: how many examples were scored and how many left out."""
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


@dataclass(frozen=True)
class Task:
    """From examples to loss, metrics and predictions. A task of your own overrides these methods."""

    features: ClassVar[tuple[str, ...]] = ()
    """The keys of an example that are tokenised, in the order of the plan's lengths."""

    def encoders(self, tokenizers: Tokenizers) -> dict[str, Callable[[list[str]], list[list[int]]]]:
        """For each feature, texts to token ids with the special tokens that the task wants."""
        raise NotImplementedError

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> Any:
        """The model's configuration with the sizes of the features' vocabularies filled in.

        Raises ValueError where the parts of an experiment contradict each other; it is called with made-up sizes
        before any text is read, so that such mistakes show at once.
        """
        raise NotImplementedError

    def loss(self, model: Any, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """Sums and weights of `loss` (what is differentiated) and other metrics; `key=None` is evaluation."""
        raise NotImplementedError

    def predictor(self, model: Any, tokenizers: Tokenizers, data: DataConfig) -> Any:
        """What a person uses the trained model with: has `predict(lines) -> list[str]`."""
        raise NotImplementedError

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        """What `evaluate` measures, and which values are better; `train.best` is one of them."""
        return {"loss": "lower"}

    def evaluate(self, predictor: Any, examples: Sequence[Example]) -> dict[str, Any]:
        """Metrics of the predictions for examples, by name, and `COUNTS`; those of text such as `bleu`.

        Raises ValueError when no example can be scored.
        """
        return {}
