"""Classification of pictures by an encoder-only model (Dosovitskiy et al. 2021)."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le, Lt
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.config import DataConfig
from transformer_jax.data.examples import Kind
from transformer_jax.data.labels import Labels
from transformer_jax.data.masking import uniform
from transformer_jax.data.pictures import Picture, decode_picture, encode_picture, picture_column
from transformer_jax.data.pipeline import Batch
from transformer_jax.data.sources import Example
from transformer_jax.data.vocabulary import VocabularyConfig
from transformer_jax.models.encoder_only import EncoderOnly, EncoderOnlyConfig
from transformer_jax.nn.inputs import Patches
from transformer_jax.parallel.distributed import to_host
from transformer_jax.tasks.losses import cross_entropy
from transformer_jax.tasks.predictor import Predictor, listed
from transformer_jax.tasks.sequences import array_width
from transformer_jax.tasks.task import Sums, Task, Tokenizers, means_of, resolved

AnyPicture = str | os.PathLike[str] | bytes | Picture
"""A picture: the name of a file, its bytes, or an array of values from 0 to 255."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the pictures to learn from, drawn anew in every epoch."""

    shift: Annotated[int, Ge(0), Le(2**12)] = 0
    """Pixels by which a picture moves at most along each side; what comes in is black (a random crop, as it is called
    on CIFAR)."""
    flip: bool = False
    """Half of the pictures are mirrored, left to right."""
    mixup: Annotated[float, Ge(0)] = 0.0
    """Pictures and labels are mixed with those of the next row of the batch, in shares from Beta(mixup, mixup) (Zhang
    et al. 2018, "mixup"); 0: not at all."""

    def draw(self, examples: np.ndarray, *, seed: int, epoch: int) -> Float[np.ndarray, "rows 4"]:
        """The random numbers of every example: two in [0, 1) to move it, one to mirror it, and its share."""
        from scipy.special import betaincinv

        draws = np.stack([uniform(seed, epoch, (example + 1, 0), 4) for example in examples.tolist()])
        if self.mixup:
            draws[:, 3] = betaincinv(self.mixup, self.mixup, draws[:, 3])
        return draws.astype(np.float32)

    def moved(
        self, pixels: UInt8[Array, "batch height width channels"], draws: Float[Array, "batch 4"]
    ) -> UInt8[Array, "batch height width channels"]:
        """The pictures moved and mirrored by their draws."""
        if self.shift:
            way = jnp.minimum(jnp.floor(draws[:, :2] * (2 * self.shift + 1)), 2 * self.shift).astype(jnp.int32)
            padded = jnp.pad(pixels, ((0, 0), (self.shift,) * 2, (self.shift,) * 2, (0, 0)))

            def cut(picture: Array, way: Array) -> Array:
                return jax.lax.dynamic_slice(picture, (way[0], way[1], 0), pixels.shape[1:])

            pixels = jax.vmap(cut)(padded, way)
        if self.flip:
            pixels = jnp.where((draws[:, 2] < 0.5)[:, None, None, None], pixels[:, :, ::-1], pixels)
        return pixels


@dataclass(frozen=True)
class ImageClassification(Task):
    """Learns the `label` of an `image`: bytes of a file, or an array. In a batch a picture counts as one token."""

    features: ClassVar[tuple[str, ...]] = ("image", "label")

    image_size: Annotated[int, Ge(1), Le(2**14)] = 224
    """Pixels along each side, to which pictures are scaled; their middle square is taken."""
    channels: Literal[1, 3] = 3
    """3 for colours, 1 for grey."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the target probability that is spread over all labels."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes of the pictures to learn from."""

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return {"image": "image", "label": "label"}

    @property
    def columns(self) -> Columns:
        """The picture, decoded by the pipeline, and the label's id."""
        return {"image": picture_column(self.image_size, self.channels), "label": Column(varying=False)}

    def vocabularies(self, data: DataConfig) -> dict[str, VocabularyConfig]:
        return {"label": Labels()}

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """The bytes of pictures, None of those that cannot be decoded, and the ids of their labels."""
        labels = [tokenizers["label"].id(example["label"]) for example in examples]
        return {"image": [self._sound(example["image"]) for example in examples], "label": labels}

    def _sound(self, picture: bytes | Picture) -> bytes | None:
        data = encode_picture(picture)
        try:
            decode_picture(data, size=self.image_size, channels=self.channels)
        except ValueError:
            return None
        return data

    def augment(self, batch: Batch, tokenizers: Tokenizers, *, seed: int, epoch: int) -> Batch:
        """Adds the random numbers of every example, by which the training step changes its picture."""
        if self.augmentation == Augmentation():
            return batch
        return batch | {"draws": self.augmentation.draw(batch["example"], seed=seed, epoch=epoch)}

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderOnlyConfig:
        patches, outputs = getattr(model, "input", None), vocab_sizes["label"]
        if not isinstance(patches, Patches):
            raise ValueError("ImageClassification needs a model of pictures: vit(), or model.input Patches")
        if patches.channels not in (0, self.channels):
            raise ValueError(f"model.input.channels follow from task.channels, {self.channels}; leave them out")
        size = patches.image_size or self.image_size  # a table of another size is interpolated
        filled = replace(patches, image_size=size, channels=self.channels)
        if self.image_size % patches.size:
            raise ValueError(f"model.input.size {patches.size} does not divide task.image_size {self.image_size}")
        changes = {"head": "sequence", "num_outputs": outputs, "input": filled}
        return resolved(self, model, EncoderOnlyConfig, data, 0, **changes)

    def loss(self, model: EncoderOnly, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """`loss`: cross-entropy; also `nll`, without smoothing and mixing, `accuracy` and `top_5`."""
        pixels, label, draws = batch["image"], batch["label"], batch.get("draws") if key is not None else None
        real = (batch["example"] >= 0).astype(jnp.float32)
        share = None
        if draws is not None:
            pixels = self.augmentation.moved(pixels, draws)
            if self.augmentation.mixup:
                share = jnp.where(real * jnp.roll(real, 1) > 0, draws[:, 3], 1.0)
        if share is not None:
            pixels = model.encoder_input.normalised(pixels)
            pixels = _mixed(pixels, jnp.roll(pixels, 1, axis=0), share.reshape(-1, 1, 1, 1))
        logits = model(pixels, key=key)
        settings = {"vocab_size": logits.shape[-1], "label_smoothing": self.label_smoothing}
        losses, plain = cross_entropy(logits[:, None], label[:, None], **settings)
        if share is not None:
            others, _ = cross_entropy(logits[:, None], jnp.roll(label, 1)[:, None], **settings)
            losses = _mixed(losses, others, share[:, None])
        _, best = jax.lax.top_k(logits, min(5, logits.shape[-1]))
        hits = (best == label[:, None]).astype(jnp.float32)
        rows = {"loss": losses[:, 0], "nll": plain[:, 0], "accuracy": hits[:, 0], "top_5": hits.sum(axis=1)}
        return {name: (jnp.sum(values * real), jnp.sum(real)) for name, values in rows.items()}

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        return {"loss": "lower", "accuracy": "higher", "top_5": "higher"}

    def loss_metrics(self, sums: Mapping[str, tuple[float, float]], examples: Sequence[Example]) -> dict[str, Any]:
        """The loss without smoothing; how often the label is the most probable or among five, in percent."""
        means = means_of(sums)
        return {"loss": means["nll"], "accuracy": 100 * means["accuracy"], "top_5": 100 * means["top_5"]}

    def predictor(self, model: EncoderOnly, tokenizers: Tokenizers, data: DataConfig) -> "ImageClassifier":
        """The model with `classify`, `probabilities` and `embed`."""
        decode = partial(decode_picture, size=self.image_size, channels=self.channels)
        settings = {"max_length": data.max_length, "tokens_per_batch": data.tokens_per_batch}
        return ImageClassifier(model, tokenizers["label"], **settings, decode=decode)

    def samples(self, predictor: "ImageClassifier", examples: Sequence[Example]) -> list[str]:
        """The labels of pictures, and the most probable ones."""
        found = predictor.classify([example["image"] for example in examples])
        return [f"{example['label']}  -> {label}" for example, label in zip(examples, found, strict=True)]


def _mixed(one: Array, other: Array, share: Array) -> Array:
    return share * one + (1 - share) * other


@dataclass(eq=False, repr=False)
class ImageClassifier(Predictor):
    """Labels for pictures, which are decoded and scaled as in training; the tokenizer is that of labels."""

    _: KW_ONLY
    decode: Callable[[bytes], np.ndarray]
    """From the bytes of a file to the pixels of a picture."""

    def classify(self, pictures: Sequence[AnyPicture]) -> list[str]:
        """The most probable label of every picture; ValueError for what is none."""
        return [self.tokenizer.names[best] for best in self.outputs(pictures).argmax(axis=1)]

    def predict(self, lines: Sequence[str]) -> list[str]:
        """The labels of files; a line is the name of one."""
        return self.classify(listed(lines))

    def probabilities(self, pictures: Sequence[AnyPicture]) -> list[dict[str, float]]:
        """The probability of every label, most probable first."""
        rows = np.asarray(jax.nn.softmax(self.outputs(pictures), axis=-1))
        return [{self.tokenizer.names[i]: float(row[i]) for i in np.argsort(-row, kind="stable")} for row in rows]

    def outputs(self, pictures: Sequence[AnyPicture]) -> Float[np.ndarray, "pictures outputs"]:
        """The model's predictions, before any softmax; ValueError for a model without labels."""
        if not self.tokenizer.names:
            raise ValueError("this model has no labels; use embed")
        return self._each(_outputs, pictures)

    def embed(self, pictures: Sequence[AnyPicture]) -> list[list[float]]:
        """A vector for every picture: that from which the head predicts."""
        return self._each(_pooled, pictures).tolist()

    def _each(self, program: Callable[..., Array], pictures: Sequence[AnyPicture]) -> np.ndarray:
        """The rows of a program's output for pictures, so many at a time as a batch of training has."""
        if isinstance(pictures, str | bytes):
            raise TypeError("give a list of pictures, as in [picture], not one")
        rows = min(self.tokens_per_batch, array_width(max(len(pictures), 1)))
        rows += -rows % self.row_multiple
        found = []
        for start in range(0, len(pictures), rows):
            pixels = [
                self._pixels(number, pictures[number]) for number in range(start, min(start + rows, len(pictures)))
            ]
            filled = np.zeros((rows, *pixels[0].shape), np.uint8)
            filled[: len(pixels)] = pixels
            found.append(to_host([self.run(program, filled)])[0][: len(pixels)])
        return np.concatenate(found) if found else np.zeros((0, 1), np.float32)

    def _pixels(self, number: int, picture: AnyPicture) -> np.ndarray:
        try:
            if isinstance(picture, str | os.PathLike):
                with open(picture, "rb") as file:
                    picture = file.read()
            return self.decode(encode_picture(picture))
        except (OSError, ValueError) as error:
            raise ValueError(f"line {number + 1} is {error}") from error


@jax.jit
def _outputs(model: EncoderOnly, pixels: Array) -> Array:
    return model(pixels)


@jax.jit
def _pooled(model: EncoderOnly, pixels: Array) -> Array:
    encoded = model.encode(pixels)
    return encoded.vectors[:, 0] if model.pooler is None else model.pooler(encoded)
