"""A published Whisper, tuned to recordings of one's own, in English or in Czech.

    transformer-jax train experiments/speech/finetune_whisper.py --data.source.directory DIRECTORY \\
        --initialize-from openai/whisper-tiny.en
    transformer-jax train experiments/speech/finetune_whisper.py --data.source.directory DIRECTORY \\
        --variant czech --initialize-from openai/whisper-small

DIRECTORY holds transcripts.tsv: of the first the name of a file, its seconds and its text; of the second those of
fillets_cs.py. A tenth is for validation and as much for test. Recordings are of at most 10 seconds, and every one
is read as a window of 30, so that a batch of 8 to 40 takes some gigabytes. There is no dropout, with which Whisper was
not trained: with 0.1 the loss of a sentence that it knows, 0.22, begins at 9.8.
"""

from dataclasses import replace

from transformer_jax import (
    AudioAugmentation,
    AudioTable,
    DataConfig,
    EncoderDecoderConfig,
    Experiment,
    Frames,
    OptimizerConfig,
    TokenizerJson,
    TrainConfig,
    Transcribing,
    Transcription,
    run_experiment,
)


def experiment() -> Experiment:
    return Experiment(
        task=Transcription(
            label_smoothing=0.0,
            longest_text=224,
            augmentation=AudioAugmentation(speed=0.1, time_masks=2, time_width=50, time_share=0.1),
        ),
        data=DataConfig(
            source=AudioTable(
                "data/recordings", train=("transcripts.tsv",), columns=("0", "2"), holdout=0.1, holdout_by="text"
            ),
            tokenizer=TokenizerJson(),
            max_length=1_000,
            tokens_per_batch=8_000,
        ),
        model=EncoderDecoderConfig(input=Frames(), dropout=0.0),
        optimizer=OptimizerConfig(
            name="adamw", schedule="linear", learning_rate=1e-5, warmup_steps=50, weight_decay=0.01, clip_norm=1.0
        ),
        train=TrainConfig(steps=500, log_every=10, evaluate_every=100, save_every=100, best="validation_wer"),
    )


def czech() -> Experiment:
    """Czech speech, to Czech text."""
    english = experiment()
    source = AudioTable(
        "data/fillets-cs", train=("transcripts.tsv",), columns=("0", "3"), holdout=0.1, holdout_by="text"
    )
    how = Transcribing(language="cs", languages=("cs",))
    return replace(
        english,
        task=replace(english.task, transcribing=how),
        data=replace(english.data, source=source),
        train=replace(english.train, steps=2_000, evaluate_every=500, save_every=500),
    )


if __name__ == "__main__":
    run_experiment(__file__)
