"""English speech to text on the 960 hours of LibriSpeech, by fairseq's small recipe: for GPUs.

    transformer-jax train experiments/speech/librispeech_small.py --data.source.directory DIRECTORY
    transformer-jax evaluate runs/librispeech_small --split test --checkpoint average:10

DIRECTORY is the archive's LibriSpeech, with train-clean-100, dev-clean, test-clean, ...; `--data.source.test
test-other` has the harder test. The published s2t_transformer_s (Wang et al. 2020, "fairseq S2T") has 4.4 % word error
rate on test-clean and 9.0 % on test-other: 12 + 6 layers of width 256, 10,000 pieces, 8 x 40,000 frames a step,
SpecAugment, the average of ten checkpoints, beam 5. Not measured. The texts, which are in capitals, are learnt in
lower case.
"""

import hashlib
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


@dataclass(frozen=True)
class LibriSpeech(Source):
    """The folders of LibriSpeech (Panayotov et al. 2015), whose *.trans.txt have the text of every recording."""

    directory: Annotated[str, MAY_CHANGE] = "data/LibriSpeech"
    train: tuple[str, ...] = ("train-clean-100", "train-clean-360", "train-other-500")
    """Folders to learn from."""
    validation: tuple[str, ...] = ("dev-clean",)
    test: tuple[str, ...] = ("test-clean",)

    def lines(self, split: str) -> Iterator[tuple[Path, str]]:
        """The files of a split and their texts, in the order of their names."""
        for folder in getattr(self, split):
            lists = sorted((Path(self.directory).expanduser() / folder).glob("*/*/*.trans.txt"))
            if not lists:
                raise FileNotFoundError(f"{self.directory} has no {folder} with texts; set data.source")
            for path in lists:
                for line in path.read_text().splitlines():
                    name, _, text = line.partition(" ")
                    yield path.with_name(f"{name}.flac"), text.lower()

    def examples(self, split: str) -> Iterator[dict[str, Path | str]]:
        return ({"audio": path, "text": text} for path, text in self.lines(split))

    def fingerprint(self, split: str) -> str:
        # Of names, sizes and texts: to read all recordings would take an hour.
        facts = [(path.name, path.stat().st_size, text) for path, text in self.lines(split)]
        return hashlib.blake2b(repr(facts).encode(), digest_size=12).hexdigest()


def experiment() -> Experiment:
    return Experiment(
        task=SpeechRecognition(
            log_mel=LogMel(kind="kaldi"),
            augmentation=AudioAugmentation(time_masks=2, time_width=100, frequency_masks=2, frequency_width=27),
            label_smoothing=0.1,
            longest_text=512,
            decoding=Decoding(beam_size=5, length_penalty=1.0, max_new_tokens=200, tokens_per_batch=40_000),
        ),
        data=DataConfig(
            source=LibriSpeech(),
            tokenizer=SentencePiece(vocab_size=10_000, model_type="unigram"),
            max_length=3_000,
            tokens_per_batch=320_000,
            num_buckets=16,
        ),
        model=EncoderDecoderConfig(
            d_model=256,
            num_heads=4,
            d_ff=2048,
            num_layers=12,
            num_decoder_layers=6,
            dropout=0.1,
            attention_dropout=0.1,
            feed_forward_dropout=0.1,
            attention_bias=True,
            norm_placement="pre",
            final_norm=True,
            norm_epsilon=1e-5,
            dtype="bfloat16",
            input=Frames(kernel=5, strides=(2, 2), activation="glu", channels=1024, scale=True),
        ),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=10_000, b2=0.999, epsilon=1e-8, clip_norm=10.0),
        train=TrainConfig(
            steps=300_000, accumulate=8, evaluate_every=2_000, save_every=2_000, keep=10, checkpoint="average:10"
        ),
    )


if __name__ == "__main__":
    run_experiment(__file__)
