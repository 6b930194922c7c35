"""Classification of pictures by an encoder-only model (Dosovitskiy et al. 2021)."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from itertools import accumulate
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from transformer_jax.data.augmentation import Augmentation
from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.config import DataConfig
from transformer_jax.data.examples import Kind, decodable
from transformer_jax.data.pictures import Picture, decode_picture, encode_picture
from transformer_jax.data.sources import Example
from transformer_jax.models.encoder_only import EncoderOnly
from transformer_jax.nn.inputs import Patches, Pixels
from transformer_jax.tasks.classification import LabelPredictor, LabelTask
from transformer_jax.tasks.losses import class_sums
from transformer_jax.tasks.predictor import Predictor, decoded
from transformer_jax.tasks.task import Sums, Task, Tokenizers

AnyPicture = str | os.PathLike[str] | bytes | Picture
"""A picture: the name of a file, its bytes, or an array of values from 0 to 255."""


@dataclass(frozen=True)
class PictureTask(Task):
    """Learns something of an `image`: a file, its bytes, or an array. In a batch a picture counts as one token."""

    image_size: Annotated[int, Ge(1), Le(2**14)] = 224
    """Pixels along each side, to which pictures are scaled; their middle square is taken."""
    channels: Literal[1, 3] = 3
    """3 for colours, 1 for grey."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes of the pictures to learn from."""

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return {**super().kinds, "image": "image"}

    @property
    def decode(self) -> Callable[..., np.ndarray]:
        """From the bytes of a picture to its pixels."""
        settings = {"size": self.image_size, "channels": self.channels, "augmentation": self.augmentation}
        return partial(decode_picture, **settings)

    @property
    def columns(self) -> Columns:
        """The picture, kept as it is encoded and decoded by the pipeline."""
        shape = self.image_size, self.image_size, self.channels
        return {"image": Column("uint8", shape, varying=False, decode=self.decode)}

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """The bytes of pictures, `Unreadable` for those that cannot be decoded."""

        def checked(example: Example) -> bytes:
            data = encode_picture(example["image"])
            self.decode(data)
            return data

        return {"image": decodable(checked, examples)}

    def input_of(self, model: Any, data: DataConfig) -> Patches:
        """The model's input with what follows from the task; ValueError for a model that reads no such pictures."""
        patches = getattr(model, "input", None)
        if not isinstance(patches, Patches):
            raise ValueError(f"{type(self).__name__} needs a model of pictures: vit(), or model.input Patches")
        if patches.channels not in (0, self.channels):
            raise ValueError(f"model.input.channels follow from task.channels, {self.channels}; leave them out")
        if self.image_size % patches.size:
            raise ValueError(f"model.input.size {patches.size} does not divide task.image_size {self.image_size}")
        # A learned table of positions that was made for another size is interpolated.
        return replace(patches, image_size=patches.image_size or self.image_size, channels=self.channels)


@dataclass(frozen=True)
class ImageClassification(LabelTask, PictureTask):
    """Learns the `label` of an `image`."""

    features: ClassVar[tuple[str, ...]] = ("image", "label")

    def loss(self, model: EncoderOnly, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """`loss`: cross-entropy; also `nll`, without smoothing and mixing, `accuracy` and `top_5`."""
        if key is not None and (self.augmentation.mixup or self.augmentation.cutmix):
            label, real = batch["label"], (batch["example"] >= 0).astype(jnp.float32)
            # These draws are of a whole batch: they belong to the step, as those of dropout do.
            mix_key, key = jax.random.split(key)
            pixels, share = mixed(self.augmentation, model.encoder_input.normalised(batch["image"]), real, mix_key)
            logits = model(pixels, key=key)
            sums_of = partial(class_sums, logits, label_smoothing=self.label_smoothing)
            own, other = sums_of(label, real * share), sums_of(jnp.roll(label, 1), real * (1 - share))
            return {**self.label_sums(logits, batch), "loss": (own["loss"][0] + other["loss"][0], jnp.sum(real))}
        return self.label_sums(model(batch["image"], key=key), batch)

    def predictor(self, model: EncoderOnly, tokenizers: Tokenizers, data: DataConfig) -> "ImageClassifier":
        """The model with `classify`, `probabilities`, `embed` and `attention`."""
        labels, sizes = tokenizers["label"], {"max_length": data.max_length, "tokens_per_batch": data.tokens_per_batch}
        return ImageClassifier(model, labels, labels, decode=self.decode, **sizes)


def mixed(
    how: Augmentation, pixels: Pixels, real: Float[Array, " batch"], key: PRNGKeyArray
) -> tuple[Pixels, Float[Array, " batch"]]:
    """Pictures mixed with those of the row before, unless one of both is empty, and their own shares of the mixture."""
    cut_key, share_key, y_key, x_key = jax.random.split(key, 4)
    rows, height, width, _ = pixels.shape
    cut = jax.random.bernoulli(cut_key, bool(how.cutmix) / (bool(how.cutmix) + bool(how.mixup)), (rows,))
    alpha = jnp.where(cut, how.cutmix, how.mixup)
    share = jnp.where(real * jnp.roll(real, 1) > 0, jax.random.beta(share_key, alpha, alpha), 1.0)

    def inside(key: PRNGKeyArray, length: int) -> Array:
        """Where the rectangle is along one side."""
        distance = jnp.arange(length)[None] + 0.5 - length * jax.random.uniform(key, (rows, 1))
        return jnp.abs(distance) < length / 2 * jnp.sqrt(1 - share)[:, None]

    rectangle = inside(y_key, height)[:, :, None] & inside(x_key, width)[:, None, :]
    own = jnp.where(cut[:, None, None], 1.0 - rectangle, share[:, None, None])[..., None]
    return own * pixels + (1 - own) * jnp.roll(pixels, 1, axis=0), own.mean(axis=(1, 2, 3))


@dataclass(eq=False, repr=False)
class PictureReader(Predictor):
    """A model of pictures, which are decoded and scaled as in training."""

    _: KW_ONLY
    decode: Callable[[bytes], UInt8[np.ndarray, "height width channels"]]
    """From the bytes of a file to the pixels of a picture."""

    def for_each(self, program: Callable[..., Any], *columns: Sequence[AnyPicture], **settings: Any) -> list[Any]:
        """A row of the output of `program(model, pixels, ones)` for every picture, a batch of training's at a time."""
        (pictures,) = columns
        items = ((pixels, np.int32(1)) for pixels in self.pixels(pictures))
        return self.for_all(program, items, self.tokens_per_batch, **settings)

    def inputs_of(self, items: Sequence[AnyPicture]) -> Sequence[Sequence[AnyPicture]]:
        return [items]

    def pixels(self, pictures: Sequence[AnyPicture]) -> Iterator[UInt8[np.ndarray, "height width channels"]]:
        """The pixels that the model reads; ValueError, with the number of the line, for what is no picture."""
        return decoded(pictures, lambda file: self.decode(encode_picture(file)), "picture")


class PictureAttention(NamedTuple):
    """Where a model looks in a picture."""

    pixels: UInt8[np.ndarray, "height width channels"]
    """The picture as the model reads it."""
    weights: Float[np.ndarray, "layers heads rows columns"]
    """The attention of the class token to every patch or, in a model without one, the mean of that of all patches."""
    rollout: Float[np.ndarray, "layers rows columns"]
    """The same from the picture up to each layer, residual connections counted (Abnar and Zuidema 2020)."""


@dataclass(eq=False, repr=False)
class ImageClassifier(PictureReader, LabelPredictor):
    """Labels for pictures; a line to predict for is the name of a file."""

    def outputs(self, items: Sequence[AnyPicture]) -> Float[np.ndarray, "pictures outputs"]:
        """The model's predictions, before any softmax; ValueError for a model without labels."""
        if not self.tokenizer.names:
            raise ValueError("this model has no labels; use embed")
        rows = self.for_each(_outputs, items)
        return np.stack(rows) if rows else np.zeros((0, 1), np.float32)

    def embed(self, items: Sequence[AnyPicture]) -> list[list[float]]:
        """A vector for every picture: that from which the head predicts."""
        return [vector.tolist() for vector in self.for_each(_pooled, items)]

    def attention(self, picture: AnyPicture) -> PictureAttention:
        """Where the class token looks in a picture, by layer and head."""
        (pixels,) = self.pixels([picture])
        weights = np.asarray(_attention(self.model, jnp.asarray(pixels[None])))[:, 0]
        patches = self.model.encoder_input.patches
        rows, columns = (side // patches.size for side in pixels.shape[:2])
        layers = (weights.mean(axis=1) + np.eye(weights.shape[-1], dtype=np.float32)) / 2
        rollout = np.stack([*accumulate(layers, lambda below, layer: layer @ below)])

        def looks(of: np.ndarray) -> np.ndarray:
            of = of[..., :1, :] if patches.class_token else of[..., patches.first :, :]
            return of[..., patches.first :].mean(axis=-2).reshape(*of.shape[:-2], rows, columns)

        return PictureAttention(pixels, looks(weights), looks(rollout))


@jax.jit
def _outputs(model: EncoderOnly, pixels: Array, _: Array) -> Array:
    return model(pixels)


@jax.jit
def _pooled(model: EncoderOnly, pixels: Array, _: Array) -> Array:
    encoded = model.encode(pixels)
    return encoded.vectors[:, 0] if model.pooler is None else model.pooler(encoded)


@jax.jit
def _attention(model: EncoderOnly, pixels: Array) -> Array:
    inside: Any = model.encode(pixels, intermediates=True).intermediates
    return inside.attention["self_attention"]
