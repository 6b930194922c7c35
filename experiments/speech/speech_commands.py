"""Which of 12 commands is it? Google's Speech Commands (Warden 2018), recordings of a second at 16 kHz.

    transformer-jax train experiments/speech/speech_commands.py --data.source.data-dir DIRECTORY
    transformer-jax train experiments/speech/speech_commands.py --variant words_35 --data.source.directory DIRECTORY

The first reads the data set speech_commands of TensorFlow Datasets, prepared in DIRECTORY as array_record: ten words,
silence, and all others as unknown. The second reads the folders of the archive speech_commands_v0.02, one for each of
35 words, with its lists of files for validation and test. KWT-1, the Keyword Transformer of width 64 (Berg et al. 2021,
table 2), reaches 97.7 % of the 12 of version 2. Its recipe: 512 recordings a step, AdamW, cosine, label smoothing and
SpecAugment; here with log-mel features where it has cepstra, and without its recordings of noise. Not measured.
"""

from dataclasses import replace

from transformer_jax import (
    AudioAugmentation,
    AudioClassification,
    AudioFolders,
    DataConfig,
    EncoderOnlyConfig,
    Experiment,
    Frames,
    Learned,
    LogMel,
    OptimizerConfig,
    Tfds,
    TrainConfig,
    run_experiment,
)


def experiment() -> Experiment:
    return Experiment(
        task=AudioClassification(
            log_mel=LogMel(kind="kaldi", num_mels=40),
            label_smoothing=0.1,
            augmentation=AudioAugmentation(
                speed=0.15, time_masks=2, time_width=25, frequency_masks=2, frequency_width=7
            ),
        ),
        data=DataConfig(
            source=Tfds("speech_commands", features=("audio", "label")),
            max_length=100,
            tokens_per_batch=512 * 104,
            num_buckets=2,
        ),
        model=EncoderOnlyConfig(
            d_model=64,
            num_heads=1,
            d_ff=256,
            num_layers=12,
            dropout=0.0,
            activation="gelu",
            norm_placement="post",
            attention_bias=True,
            positions=Learned(),
            max_length=101,
            input=Frames(kernel=1, strides=(1,), activation="none", class_token=True),
            pooler=False,
            head_dropout=0.0,
        ),
        optimizer=OptimizerConfig(
            name="adamw", schedule="cosine", learning_rate=1e-3, warmup_steps=1_700, weight_decay=0.1
        ),
        train=TrainConfig(steps=23_000, log_every=100, evaluate_every=1_000, save_every=1_000),
    )


def words_35() -> Experiment:
    """All 35 words."""
    twelve = experiment()
    train, validation, test = ("[!_]*/*.wav",), ("validation_list.txt",), ("testing_list.txt",)
    source = AudioFolders("data/speech_commands", train, validation, test)
    return replace(twelve, data=replace(twelve.data, source=source))


if __name__ == "__main__":
    run_experiment(__file__)
