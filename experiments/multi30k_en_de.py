"""Multi30k English-German, the text alone: 29,000 image captions, a small model.

The recipe is Transformer-Tiny of Wu et al. 2021 ("Good for Misconceived Reasons", ACL) as their public repository has
it: 4+4 layers of width 128, one BPE vocabulary of 10,000, dropout 0.3 at the places of "Attention Is All You Need" and
not inside attention and feed-forward layers; 8,000 updates of 8,192 tokens (two GPUs of 4,096), or fewer if ten epochs
bring no better validation loss; the mean of the last ten epochs' checkpoints; beam 5 by log-probability over length.
They report 41.02 tokenised lower-cased BLEU on test_2016_flickr. Their validation loss is the smoothed one.

    transformer-jax train experiments/multi30k_en_de.py --data.source.directory DIRECTORY

DIRECTORY holds the lower-cased, tokenised files train.en.gz, train.de.gz, val.en, val.de, test_2016_flickr.en and .de.
Measured on one H100: 40.18, 40.47 and 40.91 BLEU with seeds 0, 1 and 2, 9 minutes each (docs/REPRODUCTION.md).

`--variant tokens_4096` has batches of half the size, for a CPU: 40.03 BLEU after 209 minutes of 2 shared cores.

`--variant built_in` needs no files: the same model on as many dates.
"""

from dataclasses import replace

from transformer_jax import (
    DataConfig,
    Dates,
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
        task=Translation(
            decoding=Decoding(beam_size=5, length_rule="length", length_penalty=1.0, extra_length=20),
            bleu_tokenize="none",
        ),
        data=DataConfig(
            source=Files(
                directory="data/multi30k/tok",
                train=("train.en.gz", "train.de.gz"),
                validation=("val.en", "val.de"),
                test=("test_2016_flickr.en", "test_2016_flickr.de"),
            ),
            tokenizer=SentencePiece(vocab_size=10_000),
            max_length=128,
            tokens_per_batch=8_192,
            num_buckets=6,
        ),
        model=base(d_model=128, num_heads=4, d_ff=256, num_layers=4, dropout=0.3),
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=2_000),
        train=TrainConfig(
            steps=8_000,
            evaluate_every="epoch",
            validation_examples=1_014,
            predict_every=10,
            patience=10,
            save_every="epoch",
            keep=10,
            checkpoint="average:10",
            random_bits="rbg",
        ),
    )


def tokens_4096() -> Experiment:
    recipe = experiment()
    return replace(recipe, data=replace(recipe.data, tokens_per_batch=4_096))


def built_in() -> Experiment:
    recipe = experiment()
    dates = Dates(train_examples=29_000, validation_examples=1_014, test_examples=1_000)
    return replace(
        recipe,
        task=replace(recipe.task, scores=("exact_match",)),
        data=replace(recipe.data, source=dates, tokenizer=SentencePiece(vocab_size=1_000, split_digits=True)),
    )


if __name__ == "__main__":
    run_experiment(__file__)
