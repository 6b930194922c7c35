"""WMT 2014 English-German and English-French with the paper's base and big models (Vaswani et al. 2017, section 6.1).

The paper's BLEU on newstest2014, for each variant; steps of about 25,000 source and 25,000 target tokens on 8 P100.

    --variant      BLEU   steps     trained     memory, planned by XLA: as it is, with --train.accumulate 4, and with
                                                --model.remat True as well (the numbers of training stay the same)
    en_de_base     27.3   100,000   12 hours    29 GiB, 8.2 GiB, 4.8 GiB
    en_de_big      28.4   300,000   3.5 days    45 GiB, 15 GiB, 7.9 GiB
    en_fr_base     38.1   100,000   12 hours    like en_de_base
    en_fr_big      41.8   300,000   3.5 days    like en_de_big

Parameters as docs/REPRODUCTION.md counts them, smoothing as in table 3; the mean of the last 5 checkpoints (base) or 20
(big); beam 4, alpha 0.6.
Not trained here yet: no time and no score of our own. A GPU or TPU is needed.

    # Once: downloads what statmt.org publishes, checks it, and writes line-aligned files (--language fr for French).
    python launch/wmt14.py DIRECTORY
    transformer-jax train experiments/paper/wmt14.py --variant en_de_base_files --data.source.directory DIRECTORY

    # Or once, on a machine with TensorFlow, the data set of TensorFlow Datasets (fr-en for French), then with none:
    python -c "import tensorflow_datasets as tfds; tfds.builder('wmt14_translate/de-en',
        data_dir='DIRECTORY', file_format='array_record').download_and_prepare()"
    transformer-jax train experiments/paper/wmt14.py --variant en_de_base --data.source.data-dir DIRECTORY
"""

from dataclasses import replace

from transformer_jax import (
    DataConfig,
    EncoderDecoderConfig,
    Experiment,
    Files,
    SentencePiece,
    Tfds,
    TrainConfig,
    Translation,
    base,
    big,
    run_experiment,
)


def make(language: str, vocab_size: int, model: EncoderDecoderConfig, steps: int, averaged: int) -> Experiment:
    return Experiment(
        task=Translation(scores=("bleu", "compound_split_bleu", "chrf")),
        data=DataConfig(
            source=Tfds(name=f"wmt14_translate/{language}-en", columns=("en", language)),
            tokenizer=SentencePiece(vocab_size=vocab_size, train_sentences=2_000_000),
            max_length=256,
            tokens_per_batch=32_768,
            num_buckets=12,
            batch_multiple=32,
        ),
        model=model,
        train=TrainConfig(
            steps=steps,
            evaluate_every=5_000,
            save_every=1_000,
            keep=averaged,
            checkpoint=f"average:{averaged}",
            log_every=100,
        ),
    )


def en_de_base() -> Experiment:
    return make("de", 37_000, base(dtype="bfloat16"), 100_000, averaged=5)


def en_de_big() -> Experiment:
    return make("de", 37_000, big(dtype="bfloat16"), 300_000, averaged=20)


def en_fr_base() -> Experiment:
    return make("fr", 32_000, base(dtype="bfloat16"), 100_000, averaged=5)


def en_fr_big() -> Experiment:
    return make("fr", 32_000, big(dropout=0.1, dtype="bfloat16"), 300_000, averaged=20)


def of_files(recipe: Experiment, language: str) -> Experiment:
    """The recipe with the files that launch/wmt14.py writes."""
    source = Files(
        directory=f"data/wmt14_{language}",
        train=("train.en", f"train.{language}"),
        validation=("newstest2013.en", f"newstest2013.{language}"),
        test=("newstest2014.en", f"newstest2014.{language}"),
    )
    return replace(recipe, data=replace(recipe.data, source=source))


def en_de_base_files() -> Experiment:
    return of_files(en_de_base(), "de")


def en_de_big_files() -> Experiment:
    return of_files(en_de_big(), "de")


def en_fr_base_files() -> Experiment:
    return of_files(en_fr_base(), "fr")


def en_fr_big_files() -> Experiment:
    return of_files(en_fr_big(), "fr")


experiment = en_de_base


if __name__ == "__main__":
    run_experiment(__file__)
