"""Where a model looks in a recording, word by word, below its spectrogram."""

from pathlib import Path

from transformer_jax.data.tokenizers import encodable
from transformer_jax.tasks.speech_recognition import SoundAttention


def draw_sound_attention(found: SoundAttention, png: Path) -> None:
    """Draws the recording's spectrogram above a row for each layer, in it a map for each head: words along time.

    Each map has its own scale: it is bright where a word's share is the largest one, dark where it is zero.
    """
    from matplotlib.figure import Figure

    (layers, heads), words, seconds = found.weights.shape[:2], [*map(encodable, found.words)], len(found.features) / 100
    # In inches, and no larger than what can be opened.
    width, height = min(2.4, 60 / heads), min(max(0.13 * len(words), 1.2), 100 / (layers + 1))
    figure = Figure((width * heads + 1.2, height * layers + 1.8), dpi=100, facecolor="white", layout="compressed")
    axes = figure.subplots(layers + 1, heads, squeeze=False, sharex=True, height_ratios=[1.2, *[height] * layers])
    for head, ax in enumerate(axes[0]):
        ax.imshow(found.features.T, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, 1))
        ax.set(yticks=[], title=f"head {head + 1}")
    for layer, row in enumerate(axes[1:]):
        for ax, weights in zip(row, found.weights[layer], strict=True):
            ax.imshow(
                weights, aspect="auto", cmap="viridis", extent=(0, seconds, len(words), 0), interpolation="nearest"
            )
            ax.set(yticks=[])
        row[0].set_yticks([place + 0.5 for place in range(len(words))], words, fontsize=6, parse_math=False)
        row[-1].yaxis.set_label_position("right")
        row[-1].set_ylabel(f"layer {layer + 1}")
    for ax in axes[-1]:
        ax.set_xlabel("seconds")
    figure.savefig(png, format="png")
