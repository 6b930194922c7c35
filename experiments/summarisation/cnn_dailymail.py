"""Highlights of news articles (CNN/DailyMail, Hermann et al. 2015; See et al. 2017) from a published BART or T5.

    # Once, on a machine with TensorFlow, to prepare the data set:
    python -c "import tensorflow_datasets as tfds; tfds.builder('cnn_dailymail', data_dir='DIRECTORY',
        file_format='array_record').download_and_prepare()"
    # Then, with no TensorFlow:
    transformer-jax train experiments/summarisation/cnn_dailymail.py --initialize-from facebook/bart-base \\
        --data.source.data-dir DIRECTORY
    transformer-jax train ... --initialize-from google-t5/t5-small --task.source-prefix "summarize: "

`--variant files` reads train.jsonl.gz, validation.jsonl.gz and test.jsonl.gz with the fields article and highlights.
The recipe is that of BART's authors (Lewis et al. 2020), whose large model reaches ROUGE-1/2/L of 44.16, 21.28 and
40.90 (the last is `rougeLsum` here, whose sentences are lines); the first three sentences, here `lead_...`, reach
40.42, 17.62 and 36.67. Not measured here yet: no time and no score of our own. A GPU or TPU is needed.
"""

from dataclasses import replace

from transformer_jax import (
    DataConfig,
    Decoding,
    EncoderDecoderConfig,
    Experiment,
    Files,
    OptimizerConfig,
    Summarisation,
    Tfds,
    TokenizerJson,
    TrainConfig,
    run_experiment,
)


def experiment() -> Experiment:
    return Experiment(
        task=Summarisation(
            decoding=Decoding(
                min_length=55, max_new_tokens=140, no_repeat_ngram=3, length_rule="length", length_penalty=2.0
            ),
            scores=("rouge1", "rouge2", "rougeL", "rougeLsum"),
            lead=3,
        ),
        data=DataConfig(
            source=Tfds(name="cnn_dailymail", columns=("article", "highlights")),
            tokenizer=TokenizerJson(),
            max_length=1_024,
            tokens_per_batch=65_536,
        ),
        model=EncoderDecoderConfig(dtype="bfloat16", remat=True),
        optimizer=OptimizerConfig(
            name="adamw", schedule="linear", learning_rate=3e-5, warmup_steps=500, weight_decay=0.01, clip_norm=0.1
        ),
        train=TrainConfig(steps=20_000, evaluate_every=2_000, save_every=1_000),
    )


def files() -> Experiment:
    of_tfds = experiment()
    source = Files(
        directory="data/cnn_dailymail",
        train=("train.jsonl.gz",),
        validation=("validation.jsonl.gz",),
        test=("test.jsonl.gz",),
        columns=("article", "highlights"),
    )
    return replace(of_tfds, data=replace(of_tfds.data, source=source))


if __name__ == "__main__":
    run_experiment(__file__)
