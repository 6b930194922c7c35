"""Names of persons, places and things in noisy text of the web (WNUT 2017, Derczynski et al.).

    transformer-jax train experiments/bert/wnut17.py --data.source.directory DIRECTORY

    transformer-jax train experiments/bert/wnut17.py --variant finetune --initialize-from MODEL ...

DIRECTORY holds train.conll and dev.conll, MODEL is a published encoder, such as all-MiniLM-L6-v2. 3,394 sentences are
too few to learn this from nothing: the best of the shared task reach an entity F1 of 41.9 on test with what they have
learnt elsewhere. On dev, measured on 2 CPU cores beside other work: 11.0 from scratch (2026-11-21), 56.6 fine-tuned
(2026-11-26).
"""

from dataclasses import replace

from transformer_jax import (
    Conll,
    DataConfig,
    Experiment,
    OptimizerConfig,
    TokenClassification,
    TrainConfig,
    WordPiece,
    bert,
    run_experiment,
)


def experiment() -> Experiment:
    return Experiment(
        task=TokenClassification(),
        data=DataConfig(
            source=Conll(directory="data/wnut17", train=("train.conll",), validation=("dev.conll",)),
            tokenizer=WordPiece(vocab_size=6_000, lowercase=False),
            max_length=128,
            tokens_per_batch=2_048,
            num_buckets=3,
        ),
        model=bert(
            d_model=128,
            num_heads=4,
            d_ff=256,
            num_layers=2,
            max_length=128,
            norm_placement="pre",
            final_norm=True,
            dropout=0.3,
            attention_dropout=0.0,
            head_dropout=0.3,
        ),
        optimizer=OptimizerConfig(
            name="adamw", schedule="linear", learning_rate=1e-3, warmup_steps=100, weight_decay=0.1, clip_norm=1.0
        ),
        train=TrainConfig(
            steps=1_500, evaluate_every=250, save_every=250, validation_examples=1_009, best="validation_f1"
        ),
    )


def finetune() -> Experiment:
    """Eight epochs of small batches at a small learning rate."""
    scratch = experiment()
    return replace(
        scratch,
        data=replace(scratch.data, tokens_per_batch=768),
        model=bert(),
        optimizer=replace(scratch.optimizer, learning_rate=1e-4, warmup_steps=90, weight_decay=0.01),
        train=replace(scratch.train, steps=900, evaluate_every=150, save_every=150),
    )


if __name__ == "__main__":
    run_experiment(__file__)
