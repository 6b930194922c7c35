"""Czech speech to Czech text, or to English: 1.65 hours of two fish in a computer game, from nothing.

    transformer-jax train experiments/speech/fillets_cs.py --data.source.directory DIRECTORY
    transformer-jax train experiments/speech/fillets_cs.py --variant to_english --data.source.directory DIRECTORY

DIRECTORY holds transcripts.tsv (file, seconds, character, Czech, English) and what its files are relative to, such as
the sound of Debian's fillets-ng-data and fillets-ng-data-cs, unpacked there. A tenth is for validation and as much for
test, by the text. There is far too little for a model from nothing: finetune_whisper.py begins with one.
"""

from dataclasses import replace
from typing import Any

from transformer_jax import (
    AudioAugmentation,
    AudioTable,
    DataConfig,
    Decoding,
    EncoderDecoderConfig,
    Experiment,
    Frames,
    LogMel,
    OptimizerConfig,
    SentencePiece,
    SpeechRecognition,
    TrainConfig,
    run_experiment,
)


def experiment() -> Experiment:
    return Experiment(
        task=SpeechRecognition(
            log_mel=LogMel(kind="kaldi"),
            augmentation=AudioAugmentation(
                speed=0.15, time_masks=2, time_width=40, time_share=0.2, frequency_masks=2, frequency_width=15
            ),
            ctc_weight=0.3,
            decoding=Decoding(beam_size=5, max_new_tokens=120),
        ),
        data=DataConfig(
            source=AudioTable(
                "data/fillets-cs", train=("transcripts.tsv",), columns=("0", "3"), holdout=0.1, holdout_by="text"
            ),
            tokenizer=SentencePiece(vocab_size=300),
            max_length=1_600,
            tokens_per_batch=16_000,
        ),
        model=EncoderDecoderConfig(
            d_model=144,
            num_heads=4,
            d_ff=576,
            num_layers=6,
            num_decoder_layers=2,
            dropout=0.2,
            norm_placement="pre",
            final_norm=True,
            input=Frames(kernel=5, strides=(2, 2)),
        ),
        optimizer=OptimizerConfig(
            name="adamw", schedule="cosine", learning_rate=1e-3, warmup_steps=400, weight_decay=0.01, clip_norm=1.0
        ),
        train=TrainConfig(steps=4_000, log_every=50, evaluate_every=1_000, save_every=1_000, validation_examples=100),
    )


def to_english() -> Experiment:
    """The English text of Czech speech."""
    czech = experiment()
    source: Any = replace(czech.data.source, columns=("0", "4"))
    task = replace(czech.task, scores=("bleu", "chrf"), ctc_weight=0.0)
    return replace(czech, task=task, data=replace(czech.data, source=source))


if __name__ == "__main__":
    run_experiment(__file__)
