"""What is in the picture, in words? A ViT reads, a decoder writes: "three left of seven". Built in, no download.

    transformer-jax train experiments/vision/captions.py
    transformer-jax predict runs/captions --input FILE

FILE has the name of a picture on each line. Pictures of 16 x 16 pixels are made of two of scikit-learn's handwritten
digits, beside or above each other; those of a split are of the digits of that split alone. Pictures and texts meet in
an encoder-decoder whose `input` is Patches: this file has the source, the task and what reads files with the trained
model, as a project of one's own would have them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax import (
    Bytes,
    DataConfig,
    Digits,
    EncoderDecoderConfig,
    Experiment,
    OptimizerConfig,
    Patches,
    Sinusoidal,
    Source,
    TrainConfig,
    run_experiment,
)
from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.decoding.beam import BeamSearch
from transformer_jax.tasks.image_classification import PictureReader, PictureTask
from transformer_jax.tasks.predictor import forbidden_tokens, listed
from transformer_jax.tasks.scores import text_scores
from transformer_jax.tasks.translation import search_memory, target_sums, tokens_of

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class TwoDigits(Source):
    """Pictures of two digits and their captions."""

    count: int = 10_000
    """Pictures to learn from; a tenth as many for validation, and for test."""

    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        digits = list(Digits().examples(split))
        random = np.random.default_rng(self.splits.index(split))
        for _ in range(self.count if split == "train" else self.count // 10):
            (one, other), beside = random.integers(len(digits), size=2), random.random() < 0.5
            picture, (first, second) = np.zeros((16, 16), np.uint8), random.integers(0, 9, size=2)
            picture[first : first + 8, :8] = digits[one]["image"][..., 0]
            picture[second : second + 8, 8:] = digits[other]["image"][..., 0]
            if not beside:  # the same with rows for columns
                picture[:, :] = 0
                picture[:8, first : first + 8] = digits[one]["image"][..., 0]
                picture[8:, second : second + 8] = digits[other]["image"][..., 0]
            names = [NAMES[digits[number]["label"]] for number in (one, other)]
            yield {"image": picture, "caption": f"{names[0]} {'left of' if beside else 'above'} {names[1]}"}

    def fingerprint(self, split: str) -> str:
        return f"two digits, {self.count}"


@dataclass(frozen=True)
class Captioning(PictureTask):
    """Learns the `caption` of an `image`."""

    features: ClassVar[tuple[str, ...]] = ("image", "caption")

    longest: int = 64
    """Tokens of a caption, at most."""
    decoding: Annotated[BeamSearch, MAY_CHANGE] = field(default_factory=BeamSearch)
    """How captions are searched."""
    scores: Annotated[tuple[str, ...], MAY_CHANGE] = ("exact_match", "chrf")
    """Scores of an evaluation, as of translations."""

    @property
    def columns(self) -> Columns:
        return {**super().columns, "caption": Column()}

    def vocabularies(self, data: DataConfig) -> dict[str, Any]:
        return {"caption": data.tokenizer}

    def encode(self, tokenizers: Mapping[str, Any], examples: Any, *, max_length: int) -> dict[str, list[Any]]:
        tokenizer = tokenizers["caption"]
        captions = tokens_of(tokenizer, [example["caption"] for example in examples])
        pictures = super().encode(tokenizers, examples, max_length=max_length)
        return {**pictures, "caption": [[tokenizer.bos_id, *ids] for ids in captions]}

    def resolve(self, model: EncoderDecoderConfig, data: DataConfig, vocab_sizes: Mapping[str, int]) -> Any:
        return replace(model, vocab_size=vocab_sizes["caption"], input=self.patches(model))

    def loss(self, model: Any, batch: Mapping[str, Any], key: Any) -> Any:
        logits = model(batch["image"], batch["caption"], key=key)
        settings = {"vocab_size": model.embedding.vocab_size, "label_smoothing": self.label_smoothing}
        return target_sums(logits, batch["caption"], batch["caption_length"], **settings)

    def predictor(self, model: Any, tokenizers: Mapping[str, Any], data: DataConfig) -> "Captioner":
        sizes = {"max_length": data.max_length, "tokens_per_batch": 256}
        return Captioner(model, tokenizers["caption"], self, decode=self.decode, **sizes)

    def metrics(self) -> dict[str, Any]:
        return {"loss": "lower", **dict.fromkeys(self.scores, "higher")}

    def evaluate(self, predictor: "Captioner", examples: Any) -> dict[str, Any]:
        found = predictor.describe([example["image"] for example in examples])
        return text_scores(found, [example["caption"] for example in examples], self.scores)

    def samples(self, predictor: "Captioner", examples: Sequence[dict[str, Any]]) -> list[str]:
        found = predictor.describe([example["image"] for example in examples])
        return [f"{example['caption']}  -> {caption}" for example, caption in zip(examples, found, strict=True)]


@dataclass(eq=False, repr=False)
class Captioner(PictureReader):
    """Describes pictures; a line to predict for is the name of a file."""

    task: Captioning

    def describe(self, pictures: Sequence[Any]) -> list[str]:
        """A caption of every picture."""
        tokenizer, decoding = self.tokenizer, self.task.decoding
        settings = {"decoding": decoding, "start": tokenizer.bos_id, "end_id": tokenizer.eos_id}
        settings |= {"forbidden": forbidden_tokens(tokenizer, decoding, tokenizer.eos_id), "longest": self.task.longest}
        return [tokenizer.decode(ids[ids >= 0].tolist()) for ids in self.each(_describe, pictures, **settings)]

    def predict(self, lines: Sequence[str]) -> list[str]:
        return self.describe(listed(lines))


@partial(jax.jit, static_argnames=("decoding", "start", "end_id", "forbidden", "longest"))
def _describe(model: Any, pixels: Any, *, start: int, longest: int, **settings: Any) -> Any:
    """The tokens of the best captions, -1 behind their ends."""
    limits = jnp.full(len(pixels), longest)
    found = search_memory(model, model.encode(pixels), limits, capacity=longest, start=(start,), **settings)
    return jnp.where(jnp.arange(longest)[None] < found.lengths[:, :1], found.tokens[:, 0], -1)


def experiment() -> Experiment:
    return Experiment(
        task=Captioning(image_size=16, channels=1),
        data=DataConfig(source=TwoDigits(), tokenizer=Bytes(), max_length=64, tokens_per_batch=2_048, num_buckets=1),
        model=EncoderDecoderConfig(
            d_model=64,
            num_heads=4,
            d_ff=128,
            num_layers=3,
            num_decoder_layers=2,
            norm_placement="pre",
            final_norm=True,
            positions=Sinusoidal(),
            input=Patches(4),
            max_length=128,
        ),
        optimizer=OptimizerConfig(name="adamw", schedule="cosine", learning_rate=2e-3, warmup_steps=100, clip_norm=1.0),
        train=TrainConfig(steps=1_500, log_every=100, evaluate_every=500, save_every=500, validation_examples=200),
    )


if __name__ == "__main__":
    run_experiment(__file__)
