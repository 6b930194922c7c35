"""Captions: from a picture to a text, by an encoder of patches and a decoder of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.config import DataConfig
from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.data.vocabulary import VocabularyConfig
from transformer_jax.decoding.beam import BeamSearch
from transformer_jax.decoding.ensemble import Ensemble
from transformer_jax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from transformer_jax.tasks.image_classification import AnyPicture, PictureReader, PictureTask
from transformer_jax.tasks.task import Tokenizers, resolved
from transformer_jax.tasks.text_task import TextTask
from transformer_jax.tasks.translation import Hypothesis, Searcher


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
        """The bytes of pictures, `Unreadable` for those that cannot be decoded, and tokens with those around them."""
        pictures = super().encode(tokenizers, examples, max_length=max_length)
        return {**pictures, "caption": self.target_tokens(tokenizers, examples)}

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderDecoderConfig:
        model, patches = self.sized(model, vocab_sizes), self.input_of(model, data)
        return resolved(self, model, EncoderDecoderConfig, data, vocab_sizes["caption"], input=patches)

    def memory(self, model: EncoderDecoder | Ensemble, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Any:
        return model.encode(batch["image"], key=key)

    def predictor(self, model: EncoderDecoder | Ensemble, tokenizers: Tokenizers, data: DataConfig) -> "Captioner":
        """The model with `describe` and `search`."""
        sizes = {"max_length": data.max_length, "tokens_per_batch": max(data.tokens_per_batch // data.max_length, 1)}
        settings = {"decode": self.decode, "target_start": self.target_start}
        return Captioner(model, tokenizers["caption"].for_targets, self.decoding, **settings, **sizes)

    def outputs(self, predictor: "Captioner", examples: EncodedExamples) -> list[str]:
        return predictor.describe([bytes(data) for data in examples.column("image")])


class Captioner(PictureReader, Searcher):
    """Describes pictures; a line to predict for is the name of a file."""

    def __init__(
        self, model: EncoderDecoder | Ensemble, tokenizer: Tokenizer, decoding: BeamSearch, *, decode: Any, **sizes: Any
    ):
        self.decode = decode
        Searcher.__init__(self, model, tokenizer, tokenizer, decoding, **sizes)

    def describe(self, pictures: Sequence[AnyPicture]) -> list[str]:
        """A caption of every picture."""
        return [best.text for best, *_ in self.search(pictures)]

    predict = describe

    def search(self, pictures: Sequence[AnyPicture], n_best: int = 1) -> list[list[Hypothesis]]:
        """The `n_best` different captions of every picture, best first, or fewer if the search has no more."""
        return self.searched(range(1, len(pictures) + 1), [pictures], n_best)

    @staticmethod
    def vectors_of(model: EncoderDecoder | Ensemble, tokens: Array, lengths: Array) -> Any:
        return model.encode(tokens)

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"longest": self.max_length - len(self.target_start)}
