"""GPT-2 small (Radford et al. 2019), 124.4 M parameters, on a corpus of your own: for a GPU, several, or a TPU.

    transformer-jax train experiments/gpt/gpt2_124m.py --data.source.directory DIRECTORY --data.source.train FILE ...

Files of running text, documents between `<|endoftext|>`. The schedule is that of 10 billion tokens: 19,073 steps of
524,288, in micro-batches of 16 rows. --data.tokenizer.path DIRECTORY takes GPT-2's own vocab.json and merges.txt.
Not trained here yet: no time and no result. On CPU cores one step runs with a small batch (1 minute on 2 of them):

    ... --train.steps 1 --data.max-length 64 --data.tokens-per-batch 256 --data.batch-multiple 4 --train.accumulate 1
"""

from transformer_jax import (
    ByteBPE,
    DataConfig,
    Experiment,
    Generation,
    LanguageModelling,
    OptimizerConfig,
    Sampling,
    Text,
    TrainConfig,
    gpt2,
    run_experiment,
)


def experiment() -> Experiment:
    return Experiment(
        task=LanguageModelling(generation=Generation(max_new_tokens=200, sampling=Sampling(temperature=0.8, top_k=50))),
        data=DataConfig(
            source=Text(directory="data", train=("train.txt.gz",), separator="<|endoftext|>", holdout=0.001),
            tokenizer=ByteBPE(vocab_size=50_257),
            max_length=1_024,
            tokens_per_batch=524_288,
            batch_multiple=512,
        ),
        model=gpt2(dtype="bfloat16", dropout=0.0, attention_dropout=0.0, vocab_multiple=128),
        optimizer=OptimizerConfig(
            name="adamw",
            schedule="cosine",
            learning_rate=6e-4,
            warmup_steps=700,
            b2=0.95,
            epsilon=1e-8,
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        train=TrainConfig(steps=19_073, accumulate=32, evaluate_every=250, save_every=1_000, random_bits="rbg"),
    )


if __name__ == "__main__":
    run_experiment(__file__)
