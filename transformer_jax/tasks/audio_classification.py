"""Classification of recordings by an encoder-only model, such as the Keyword Transformer (Berg et al. 2021)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from transformer_jax.data.config import DataConfig
from transformer_jax.models.encoder_only import EncoderOnly
from transformer_jax.tasks.audio import AudioReader, AudioTask, Listened, Recording
from transformer_jax.tasks.classification import LabelPredictor, LabelTask
from transformer_jax.tasks.task import Sums, Tokenizers


@dataclass(frozen=True)
class AudioClassification(LabelTask, AudioTask):
    """Learns the `label` of a recording, `audio`."""

    features: ClassVar[tuple[str, ...]] = ("audio", "label")

    def loss(self, model: EncoderOnly, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """`loss`: cross-entropy; also `nll`, without smoothing, `accuracy` and `top_5`."""
        read_key, model_key = (None, None) if key is None else jax.random.split(key)
        features, frames = self.read(batch, read_key)
        return self.label_sums(model(features, lengths=frames, key=model_key), batch)

    def predictor(self, model: EncoderOnly, tokenizers: Tokenizers, data: DataConfig) -> "AudioClassifier":
        """The model with `classify` and `probabilities`."""
        labels, sizes = tokenizers["label"], {"max_length": data.max_length, "tokens_per_batch": data.tokens_per_batch}
        return AudioClassifier(model, labels, labels, log_mel=self.log_mel, **sizes)


@dataclass(eq=False, repr=False)
class AudioClassifier(AudioReader, LabelPredictor):
    """Labels for recordings; a line to predict for is the name of a file."""

    @property
    def vectors_of(self) -> Listened:
        return Listened(self.log_mel, "lengths")

    def outputs(self, items: Sequence[Recording]) -> Float[np.ndarray, "recordings outputs"]:
        """The model's predictions, before any softmax."""
        rows = self.for_each(_outputs, *self.inputs_of(items), vectors_of=self.vectors_of)
        return np.stack(rows) if rows else np.zeros((0, 1), np.float32)


@partial(jax.jit, static_argnames="vectors_of")
def _outputs(model: EncoderOnly, *arrays: Array, vectors_of: Listened) -> Array:
    return model.predict(vectors_of(model, *arrays))
