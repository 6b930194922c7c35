"""Where a model looks in a picture, drawn over it."""

from pathlib import Path

import numpy as np

from transformer_jax.tasks.image_classification import PictureAttention


def draw_picture_attention(found: PictureAttention, png: Path) -> None:
    """Draws a row for each layer, in it the picture, a column for each head and, from the picture on, the rollout.

    Each map has its own scale: a patch is bright and red where its share is the largest one, dark where it is zero.
    """
    from matplotlib.figure import Figure

    layers, heads = found.weights.shape[:2]
    cell = min(1.6, 60 / (heads + 2), 100 / layers)  # inches
    figure = Figure((cell * (heads + 2) + 0.4, cell * layers + 0.6), dpi=100, facecolor="white")
    axes = figure.subplots(layers, heads + 2, squeeze=False)
    figure.subplots_adjust(0.4 / figure.get_figwidth(), 0.02, 1, 1 - 0.5 / figure.get_figheight(), 0.04, 0.04)
    picture = np.repeat(found.pixels, 4 - found.pixels.shape[2], axis=2)[..., :3] / 255
    for layer, row in enumerate(axes):
        maps = {f"head {head + 1}": weights for head, weights in enumerate(found.weights[layer])}
        for ax, (title, weights) in zip(row, {"": None, **maps, "rollout": found.rollout[layer]}.items(), strict=True):
            ax.imshow(picture if weights is None else overlaid(picture, weights), interpolation="nearest")
            ax.set(xticks=[], yticks=[], title=title if layer == 0 else "")
        row[0].set_ylabel(f"layer {layer + 1}")
    figure.savefig(png, format="png")


def overlaid(picture: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The picture, grey where a map of its patches is low and red where it is high."""
    height, width = (side // patches for side, patches in zip(picture.shape, weights.shape, strict=False))
    share = np.kron(weights / max(float(weights.max()), 1e-30), np.ones((height, width)))[..., None]
    grey = picture.mean(axis=2, keepdims=True)
    return np.clip((0.25 + 0.35 * share) * grey + share * np.array([0.75, 0.2, 0.05]) * (0.4 + 0.6 * grey), 0, 1)
