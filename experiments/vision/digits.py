"""Which digit is it? 1,797 pictures of 8 x 8 pixels that come with scikit-learn: a small ViT, no download."""

from transformer_jax import (
    Augmentation,
    DataConfig,
    Digits,
    Experiment,
    ImageClassification,
    OptimizerConfig,
    Patches,
    TrainConfig,
    run_experiment,
    vit,
)


def experiment() -> Experiment:
    return Experiment(
        task=ImageClassification(image_size=8, channels=1, label_smoothing=0.1, augmentation=Augmentation(shift=1)),
        data=DataConfig(source=Digits(), tokens_per_batch=128),
        model=vit(d_model=64, num_heads=4, d_ff=128, num_layers=4, dropout=0.1, input=Patches(2)),
        optimizer=OptimizerConfig(
            name="adamw", schedule="cosine", learning_rate=2e-3, warmup_steps=100, weight_decay=0.05, clip_norm=1.0
        ),
        train=TrainConfig(steps=2_000, log_every=100, evaluate_every=500, save_every=2_000),
    )


if __name__ == "__main__":
    run_experiment(__file__)
