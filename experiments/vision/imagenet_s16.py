"""ViT-S/16 on ImageNet-1k in 90 epochs: "Better plain ViT baselines" (Beyer et al. 2022), published 76.5 % top-1.

    transformer-jax plan experiments/vision/imagenet_s16.py --topology v5e:2x4
    transformer-jax train experiments/vision/imagenet_s16.py --data.source.data-dir DIRECTORY

DIRECTORY has the TFDS data set imagenet2012 prepared as array_record. The recipe is that of
github.com/google-research/big_vision (configs/vit_s16_i1k.py): no class token but the mean of patches, sinusoids in two
dimensions, crops as of Inception, RandAugment and mixup, no dropout; a decay of 1e-4 a step at the highest learning
rate, which is 0.1 here. There, an evaluation takes the middle 224 of 256 pixels (here the whole middle square), and all
pictures of a batch are mixed in one share. For a pod or 8 GPUs; not measured.
"""

from transformer_jax import (
    VIT_SIZES,
    Augmentation,
    DataConfig,
    Experiment,
    ImageClassification,
    OptimizerConfig,
    Patches,
    Sinusoidal2D,
    Tfds,
    TrainConfig,
    run_experiment,
    vit,
)

EPOCH = 1_268_355 / 1_024


def experiment() -> Experiment:
    return Experiment(
        task=ImageClassification(
            augmentation=Augmentation(crop=0.05, flip=True, operations=2, magnitude=10.0, mixup=0.2)
        ),
        data=DataConfig(
            source=Tfds(
                "imagenet2012",
                features=("image", "label"),
                train="train[:99%]",
                validation="train[99%:]",
                test="validation",
            ),
            tokens_per_batch=1_024,
        ),
        model=vit(
            **VIT_SIZES["S"],
            input=Patches(16, class_token=False),
            positions=Sinusoidal2D(),
            pooling="mean",
            pooler=True,
            dtype="bfloat16",
        ),
        optimizer=OptimizerConfig(
            name="adamw",
            schedule="cosine",
            learning_rate=1e-3,
            warmup_steps=10_000,
            b2=0.999,
            epsilon=1e-8,
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        train=TrainConfig(steps=round(90 * EPOCH), log_every=50, evaluate_every=5_000, save_every=5_000),
    )


if __name__ == "__main__":
    run_experiment(__file__)
