"""Dates in 48 languages to ISO 8601: the paper's Transformer, small, from nothing to 98 % in minutes, no download.

    "jeudi 5 mars 2026"  ->  "2026-03-05"

Measured on 2 CPU cores (2026-11-21): 2 min 4 s from start to end, 99.85 % exact match on 2,000 test dates.
"""

from transformer_jax import (
    DataConfig,
    Dates,
    Decoding,
    Experiment,
    OptimizerConfig,
    SentencePiece,
    TrainConfig,
    Translation,
    base,
    run_experiment,
)


def experiment() -> Experiment:
    return Experiment(
        task=Translation(scores=("exact_match",), decoding=Decoding(beam_size=4, extra_length=16)),
        data=DataConfig(
            source=Dates(),
            tokenizer=SentencePiece(vocab_size=1_000, split_digits=True),
            max_length=64,
            tokens_per_batch=2_048,
            num_buckets=2,
        ),
        model=base(d_model=128, num_heads=4, d_ff=512, num_layers=2, dropout=0.0),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=300, schedule="cosine"),
        train=TrainConfig(steps=1_000, log_every=50, evaluate_every=250, save_every=500),
    )


if __name__ == "__main__":
    run_experiment(__file__)
