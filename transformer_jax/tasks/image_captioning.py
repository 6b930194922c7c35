"""Captions: from a picture to a text, by an encoder of patches and a decoder of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.config import DataConfig
from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples
from transformer_jax.data.vocabulary import VocabularyConfig
from transformer_jax.decoding.beam import BeamSearch
from transformer_jax.decoding.ensemble import Ensemble
from transformer_jax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from transformer_jax.tasks.image_classification import AnyPicture, PictureReader, PictureTask
from transformer_jax.tasks.predictor import forbidden_tokens
from transformer_jax.tasks.task import Tokenizers, resolved
from transformer_jax.tasks.text_task import TextTask, named_tokens
from transformer_jax.tasks.translation import search_memory


@dataclass(frozen=True)
class ImageCaptioning(PictureTask, TextTask):
    """Learns the `caption` of an `image`."""

    features: ClassVar[tuple[str, ...]] = ("image", "caption")

    decoding: Annotated[BeamSearch, MAY_CHANGE] = field(default_factory=BeamSearch)
    """How captions are searched, of data.max_length tokens at most."""

    @property
    def columns(self) -> Columns:
        """The picture, decoded by the pipeline, and the caption's tokens."""
        return {**super().columns, "caption": Column()}

    def vocabularies(self, data: DataConfig) -> dict[str, VocabularyConfig]:
        return {"caption": data.tokenizer}

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """The bytes of pictures, None of those that cannot be decoded, and tokens with those around them."""
        pictures = super().encode(tokenizers, examples, max_length=max_length)
        return {**pictures, "caption": self.target_tokens(tokenizers, examples)}

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderDecoderConfig:
        model, patches = self.sized(model, vocab_sizes), self.input_of(model, data)
        return resolved(self, model, EncoderDecoderConfig, data, vocab_sizes["caption"], input=patches)

    def memory(self, model: EncoderDecoder | Ensemble, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Any:
        return model.encode(batch["image"], key=key)

    def predictor(self, model: EncoderDecoder | Ensemble, tokenizers: Tokenizers, data: DataConfig) -> "Captioner":
        """The model with `describe`."""
        tokenizer = tokenizers["caption"].for_targets
        start = tokenizer.bos_id, *named_tokens(tokenizer, self.target_start)
        sizes = {"max_length": data.max_length, "tokens_per_batch": max(data.tokens_per_batch // data.max_length, 1)}
        return Captioner(model, tokenizer, self.decoding, start, decode=self.decode, **sizes)

    def outputs(self, predictor: "Captioner", examples: EncodedExamples) -> list[str]:
        return predictor.describe([bytes(data) for data in examples.column("image")])


@dataclass(eq=False, repr=False)
class Captioner(PictureReader):
    """Describes pictures; a line to predict for is the name of a file."""

    decoding: BeamSearch
    start: tuple[int, ...]
    """The tokens in front of every caption."""

    def describe(self, pictures: Sequence[AnyPicture]) -> list[str]:
        """A caption of every picture."""
        tokenizer, capacity = self.tokenizer, self.max_length - len(self.start)
        settings = {"start": self.start, "end_id": tokenizer.eos_id, "capacity": capacity, "decoding": self.decoding}
        settings["forbidden"] = forbidden_tokens(tokenizer, self.decoding, tokenizer.eos_id)
        return [tokenizer.decode(ids[ids >= 0].tolist()) for ids in self.each(_describe, pictures, **settings)]

    predict = describe


@partial(jax.jit, static_argnames=("start", "end_id", "capacity", "decoding", "forbidden"))
def _describe(model: EncoderDecoder | Ensemble, pixels: Array, *, capacity: int, **settings: Any) -> Array:
    """The tokens of the best captions, -1 behind their ends."""
    limits = jnp.full(len(pixels), capacity)
    found = search_memory(model, model.encode(pixels), limits, capacity=capacity, **settings)
    return jnp.where(jnp.arange(capacity)[None] < found.lengths[:, :1], found.tokens[:, 0], -1)
