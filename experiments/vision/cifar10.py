"""What is in the picture? CIFAR-10 (Krizhevsky 2009): 50,000 pictures of 32 x 32 pixels in 10 classes.

    transformer-jax train experiments/vision/cifar10.py --data.source.directory DIRECTORY

DIRECTORY holds train.npz and test.npz with `images` (uint8, [pictures, 32, 32, 3]) and `labels`. ViT-Lite-7/4 (Hassani
et al. 2021, "Escaping the Big Data Paradigm", table 2) reaches 91.38 % there: 7 layers, width 256, 4 heads, patches of
4 pixels, 3.7 M parameters, 200 epochs; not measured here, that takes a GPU. `--variant small` is for two CPU cores and
the first 5,000 pictures, and no published setting: 50.6 % after 9 minutes, where a convolutional net as large has 71.9.
"""

from dataclasses import replace

from transformer_jax import (
    Augmentation,
    DataConfig,
    Experiment,
    ImageClassification,
    Npz,
    OptimizerConfig,
    Patches,
    TrainConfig,
    run_experiment,
    vit,
)


def experiment() -> Experiment:
    return Experiment(
        task=ImageClassification(
            image_size=32, label_smoothing=0.1, augmentation=Augmentation(shift=4, flip=True, mixup=0.8)
        ),
        data=DataConfig(source=Npz(directory="data/cifar10", test=("test.npz",), holdout=0.02), tokens_per_batch=128),
        model=vit(
            d_model=256,
            num_heads=4,
            d_ff=512,
            num_layers=7,
            stochastic_depth=0.1,
            input=Patches(4, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)),
        ),
        optimizer=OptimizerConfig(
            name="adamw", schedule="cosine", learning_rate=5e-4, warmup_steps=3_900, weight_decay=0.03, clip_norm=1.0
        ),
        train=TrainConfig(steps=76_600, log_every=200, evaluate_every=1_915, save_every=3_830),
    )


def small() -> Experiment:
    """3 layers of width 128, without mixing: 30 epochs of 5,000 pictures."""
    large = experiment()
    return replace(
        large,
        task=replace(large.task, augmentation=Augmentation(shift=4, flip=True)),
        model=replace(large.model, d_model=128, d_ff=256, num_layers=3, stochastic_depth=0.0),
        optimizer=replace(large.optimizer, learning_rate=1e-3, warmup_steps=100),
        train=replace(large.train, steps=1_150, log_every=50, evaluate_every=115, save_every=575),
    )


if __name__ == "__main__":
    run_experiment(__file__)
