"""A published ViT, DeiT or DINOv2 learns to tell folders of pictures apart.

    transformer-jax train experiments/vision/finetune.py --initialize-from MODEL --data.source.directory DIRECTORY

MODEL is a directory or a name on the hub, such as google/vit-base-patch16-224-in21k or facebook/dinov2-small; its
sizes, patches and normalisation are taken. DIRECTORY has a folder `train`, in it one of pictures for each class; a
tenth is held out for validation and as much for test. Pictures of another `--task.image-size` than MODEL's are read
with its positions interpolated. `--variant probe` trains the head alone, `--variant cifar10` reads .npz files.
Every layer learns at 0.75 times the rate of the one above it (as in Bao et al. 2022, "BEiT").
"""

from dataclasses import replace

from transformer_jax import (
    Augmentation,
    DataConfig,
    Experiment,
    ImageClassification,
    Npz,
    OptimizerConfig,
    PictureFolders,
    TrainConfig,
    run_experiment,
    vit,
)


def experiment() -> Experiment:
    return Experiment(
        task=ImageClassification(label_smoothing=0.1, augmentation=Augmentation(crop=0.4, flip=True, operations=2)),
        data=DataConfig(source=PictureFolders("data/pictures", holdout=0.1), tokens_per_batch=64),
        model=vit(stochastic_depth=0.1),
        optimizer=OptimizerConfig(
            name="adamw",
            schedule="cosine",
            learning_rate=5e-4,
            warmup_steps=100,
            weight_decay=0.05,
            layer_decay=0.75,
            clip_norm=1.0,
        ),
        train=TrainConfig(steps=2_000, evaluate_every=250, save_every=250, best="validation_accuracy"),
    )


def probe() -> Experiment:
    """The encoder as it was published, and a linear map on top."""
    whole = experiment()
    optimizer = replace(whole.optimizer, frozen=("encoder_input/*", "encoder/*"), layer_decay=1.0, learning_rate=1e-3)
    return replace(whole, model=vit(), optimizer=optimizer)


def cifar10() -> Experiment:
    """The 10 classes of CIFAR-10, from train.npz and test.npz."""
    whole = experiment()
    source = Npz("data/cifar10", test=("test.npz",), holdout=0.1, classes="classes.txt")
    return replace(whole, data=replace(whole.data, source=source))


if __name__ == "__main__":
    run_experiment(__file__)
