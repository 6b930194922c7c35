"""Tatoeba English-German: 169,813 short sentence pairs of everyday language, from manythings.org/anki.

One English sentence has several translations, so that train, validation and test are split by English sentence.

    transformer-jax train experiments/tatoeba_en_de.py --data.source.directory DIRECTORY

DIRECTORY holds de-en.tsv.gz (English, a tab, German on every line). Measured: 46.6
BLEU on test (1,754 sentences) after 19,057 steps, 11 minutes on one H100 beside other trainings (2026-11-27); 2 CPU
cores would take most of a day.
"""

from transformer_jax import (
    DataConfig,
    Decoding,
    Experiment,
    Files,
    OptimizerConfig,
    SentencePiece,
    TrainConfig,
    Translation,
    base,
    run_experiment,
)


def experiment() -> Experiment:
    return Experiment(
        task=Translation(decoding=Decoding(extra_length=20)),
        data=DataConfig(
            source=Files(
                directory="data/tatoeba", train=("de-en.tsv.gz",), columns=("0", "1"), holdout=0.01, holdout_by="source"
            ),
            tokenizer=SentencePiece(vocab_size=8_000),
            max_length=64,
            tokens_per_batch=8_192,
            num_buckets=6,
        ),
        model=base(d_model=256, num_heads=4, d_ff=1_024, num_layers=3, dropout=0.2),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=2_000),
        train=TrainConfig(steps=20_000, evaluate_every=2_000, save_every=1_000, keep=5, checkpoint="average:5"),
    )


if __name__ == "__main__":
    run_experiment(__file__)
