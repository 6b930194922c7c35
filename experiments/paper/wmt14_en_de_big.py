"""WMT 2014 English-German with the paper's big model (Vaswani et al. 2017, sections 5 and 6.1).

The paper: 28.4 BLEU on newstest2014 after 300,000 steps of about 25,000 source and 25,000 target tokens,
3.5 days on 8 P100. Parameters and smoothing as in table 3; the mean of the last 20 checkpoints; beam 4, alpha 0.6.
Not trained here yet: no time and no score of our own. A GPU or TPU is needed.
Memory, planned by XLA: 45 GiB; 15 with --train.accumulate 4, 7.9 with --model.remat True as well. The numbers
of training stay the same.

    # Once, on a machine with TensorFlow, to prepare the data set:
    python -c "import tensorflow_datasets as tfds; tfds.builder('wmt14_translate/de-en',
        data_dir='DIRECTORY', file_format='array_record').download_and_prepare()"
    # Then, with no TensorFlow:
    transformer-jax train experiments/paper/wmt14_en_de_big.py --data.source.data-dir DIRECTORY
"""

from transformer_jax import (
    DataConfig,
    Experiment,
    SentencePiece,
    Tfds,
    TrainConfig,
    Translation,
    big,
    run_experiment,
)


def experiment() -> Experiment:
    return Experiment(
        task=Translation(scores=("bleu", "compound_split_bleu", "chrf")),
        data=DataConfig(
            source=Tfds(name="wmt14_translate/de-en", columns=("en", "de")),
            tokenizer=SentencePiece(vocab_size=37_000, train_sentences=2_000_000),
            max_length=256,
            tokens_per_batch=32_768,
            num_buckets=12,
            batch_multiple=32,
        ),
        model=big(dtype="bfloat16"),
        train=TrainConfig(
            steps=300_000, evaluate_every=5_000, save_every=1_000, keep=20, checkpoint="average:20", log_every=100
        ),
    )


if __name__ == "__main__":
    run_experiment(__file__)
