"""What is in the picture, in words? A ViT reads, a decoder writes: "three left of seven". Built in, no download.

    transformer-jax train experiments/vision/captions.py
    transformer-jax predict runs/captions --input FILE

FILE has the name of a picture on each line. Pictures of 16 x 16 pixels are made of two of scikit-learn's handwritten
digits, beside or above each other; those of a split are of the digits of that split alone. Not measured to its end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from transformer_jax import (
    Bytes,
    DataConfig,
    Digits,
    EncoderDecoderConfig,
    Experiment,
    ImageCaptioning,
    OptimizerConfig,
    Patches,
    Source,
    TrainConfig,
    run_experiment,
)

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class DigitPairs(Source):
    """Pictures of two of these digits, beside or above each other, with a `caption`, such as "three left of seven"."""

    count: int = 10_000
    """Pictures to learn from; a tenth as many for validation, and for test."""

    def examples(self, split: str) -> Iterator[dict[str, np.ndarray | str]]:
        digits, random = [*Digits().examples(split)], np.random.default_rng(self.splits.index(split))
        for _ in range(self.count if split == "train" else -(-self.count // 10)):
            pair = [digits[number] for number in random.integers(len(digits), size=2)]
            picture, beside = np.zeros((16, 16), np.uint8), random.random() < 0.5
            canvas = picture.T if beside else picture  # of one above the other
            for row, digit, column in zip((0, 8), pair, random.choice((0, 4, 8), size=2), strict=True):
                pixels = digit["image"][..., 0]
                canvas[row : row + 8, column : column + 8] = pixels.T if beside else pixels
            one, other = (NAMES[digit["label"]] for digit in pair)
            yield {"image": picture, "caption": f"{one} {'left of' if beside else 'above'} {other}"}


def experiment() -> Experiment:
    return Experiment(
        task=ImageCaptioning(image_size=16, channels=1),
        data=DataConfig(source=DigitPairs(), tokenizer=Bytes(), max_length=32, tokens_per_batch=2_048, num_buckets=1),
        model=EncoderDecoderConfig(
            d_model=64,
            num_heads=4,
            d_ff=128,
            num_layers=3,
            num_decoder_layers=2,
            norm_placement="pre",
            final_norm=True,
            input=Patches(4),
        ),
        optimizer=OptimizerConfig(name="adamw", schedule="cosine", learning_rate=2e-3, warmup_steps=100, clip_norm=1.0),
        train=TrainConfig(steps=1_500, log_every=100, evaluate_every=500, save_every=500, validation_examples=200),
    )


if __name__ == "__main__":
    run_experiment(__file__)
