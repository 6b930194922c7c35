"""Strings of 2 to 7 digits, as an unknown voice says them: recordings of single digits, joined as they are read.

    transformer-jax train experiments/speech/spoken_numbers.py --data.source.directory DIRECTORY
    transformer-jax evaluate runs/spoken_numbers --split test

DIRECTORY holds {digit}_{speaker}_{index}.wav, as the Free Spoken Digit Dataset has them. A string is of one speaker;
those of `--data.source.speaker` are for test. Two convolutions, a pre-norm encoder and a decoder, with a CTC head
beside it (`--task.ctc-decoding True` reads texts off that). The score is the word error rate, every digit a word.

Measured on 2 shared CPU cores (2026-11-26) with 300 of the 3,000 recordings: 16.2 % for theo, 24.9 % off the CTC head;
16 minutes of CPU time.
"""

import io
import random
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from transformer_jax import (
    MAY_CHANGE,
    AudioAugmentation,
    DataConfig,
    Decoding,
    EncoderDecoderConfig,
    Experiment,
    Frames,
    LogMel,
    OptimizerConfig,
    SentencePiece,
    Source,
    SpeechRecognition,
    TrainConfig,
    run_experiment,
)

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATE = 8_000


@dataclass(frozen=True)
class SpokenNumbers(Source):
    """Strings of digits, joined from recordings of one speaker with short pauses between them."""

    directory: Annotated[str, MAY_CHANGE] = "data/fsdd"
    speaker: str = "theo"
    """Whose strings are for test, and neither learnt from nor for validation."""
    count: int = 3_000
    """Strings to learn from; a tenth of that for validation, and for test."""
    most: int = 7
    """Digits of the longest one."""

    def examples(self, split: str) -> Iterator[dict[str, bytes | str]]:
        """The strings of a split: always the same ones."""
        voices = self.recordings(split)
        for number in range(self.count if split == "train" else self.count // 10):
            draw = random.Random(f"{split} {number}")
            voice = voices[draw.choice(sorted(voices))]
            digits = [draw.randrange(10) for _ in range(draw.randint(2, self.most))]
            sound = b"".join(draw.choice(voice[digit]) + bytes(2 * draw.randrange(RATE // 5)) for digit in digits)
            file = io.BytesIO()
            with wave.open(file, "wb") as writer:
                writer.setparams((1, 2, RATE, 0, "NONE", ""))
                writer.writeframes(sound)
            yield {"audio": file.getvalue(), "text": " ".join(WORDS[digit] for digit in digits)}

    def recordings(self, split: str) -> dict[str, dict[int, list[bytes]]]:
        """The samples of a split's speakers, by speaker and digit; the last recordings of each are for validation."""
        found: dict[str, dict[int, list[bytes]]] = {}
        for path in sorted(Path(self.directory).expanduser().glob("*_*_*.wav")):
            digit, speaker, index = path.stem.split("_")
            if split == ("test" if speaker == self.speaker else "validation" if index == "9" else "train"):
                with wave.open(str(path)) as reader:
                    if reader.getparams()[:3] != (1, 2, RATE):
                        raise ValueError(f"{path} is not of one channel of 16 bits at {RATE} Hz")
                    samples = reader.readframes(reader.getnframes())
                found.setdefault(speaker, {}).setdefault(int(digit), []).append(samples)
        if not found or any(len(voice) < 10 for voice in found.values()):
            raise ValueError(f"{self.directory} lacks recordings DIGIT_SPEAKER_INDEX.wav of all digits for {split}")
        return found


def experiment() -> Experiment:
    return Experiment(
        task=SpeechRecognition(
            log_mel=LogMel(kind="standardised", num_mels=40, sample_rate=RATE),
            augmentation=AudioAugmentation(
                speed=0.25, time_masks=2, time_width=20, time_share=0.1, frequency_masks=2, frequency_width=7
            ),
            ctc_weight=0.3,
            longest_text=10,
            decoding=Decoding(beam_size=5, max_new_tokens=10),
        ),
        data=DataConfig(
            source=SpokenNumbers(),
            tokenizer=SentencePiece(model_type="word", vocab_size=16),
            max_length=1_000,
            tokens_per_batch=16_000,
            num_buckets=3,
        ),
        model=EncoderDecoderConfig(
            d_model=96,
            num_heads=4,
            d_ff=384,
            num_layers=4,
            num_decoder_layers=2,
            norm_placement="pre",
            final_norm=True,
            dropout=0.1,
            input=Frames(kernel=5, strides=(2, 2)),
        ),
        optimizer=OptimizerConfig(
            name="adamw", schedule="cosine", learning_rate=2e-3, warmup_steps=200, weight_decay=0.01, clip_norm=1.0
        ),
        train=TrainConfig(steps=2_000, log_every=50, evaluate_every=500, save_every=500, validation_examples=100),
    )


if __name__ == "__main__":
    run_experiment(__file__)
