"""Losses."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "batch length rows"],
    labels: Int[Array, "batch length"],
    *,
    vocab_size: int,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"]]:
    """Cross-entropy of every label in nats, with label smoothing and z-loss and without.

    The smoothed target is `(1 - e) * one_hot(label) + e / vocab_size` (Szegedy et al. 2016, section 7): the mass goes
    to all real tokens, the label included. Written through the log-sum-exp, so that no log-softmax is kept for the
    backward pass. Rows from `vocab_size` on pad the vocabulary. `z_loss` times the square of the log-sum-exp keeps
    logits from drifting (Chowdhery et al. 2022, "PaLM", section 5).
    """
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    label_logit = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    plain = log_normalizer - label_logit
    drift = z_loss * jnp.square(log_normalizer) if z_loss else 0.0
    if not label_smoothing:
        return plain + drift, plain
    real = logits
    if logits.shape[-1] != vocab_size:
        real = jnp.where(jnp.arange(logits.shape[-1]).reshape(1, 1, -1) < vocab_size, logits, 0.0)
    uniform = log_normalizer - jnp.sum(real, axis=-1) / vocab_size
    return (1 - label_smoothing) * plain + label_smoothing * uniform + drift, plain


def label_sums(
    logits: Float[Array, "batch length rows"], labels: Int[Array, "batch length"], *, vocab_size: int
) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
    """Sums and weights of `loss` and `accuracy` of the positions that have a label; -1 is none."""
    weights = (labels >= 0).astype(jnp.float32)
    _, losses = cross_entropy(logits, jnp.maximum(labels, 0), vocab_size=vocab_size)
    count, right = jnp.sum(weights), jnp.argmax(logits, axis=-1) == labels
    return {"loss": (jnp.sum(losses * weights), count), "accuracy": (jnp.sum(right * weights), count)}


def class_sums(
    logits: Float[Array, "batch outputs"],
    labels: Int[Array, " batch"],
    weights: Float[Array, " batch"],
    *,
    label_smoothing: float = 0.0,
) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
    """Sums and weights of `loss`, of `nll`, without label smoothing, and of `accuracy`, for one label in each row."""
    settings = {"vocab_size": logits.shape[-1], "label_smoothing": label_smoothing}
    losses, plain = cross_entropy(logits[:, None], labels[:, None], **settings)
    right = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    rows, count = {"loss": losses[:, 0], "nll": plain[:, 0], "accuracy": right}, jnp.sum(weights)
    return {name: (jnp.sum(values * weights), count) for name, values in rows.items()}


def ctc_losses(
    logits: Float[Array, "batch frames rows"],
    frames: Int[Array, " batch"],
    labels: Int[Array, "batch length"],
    lengths: Int[Array, " batch"],
    *,
    blank: int,
) -> Float[Array, " batch"]:
    """The negative log-probability, in nats, of labels in all their alignments to frames (Graves et al. 2006, "CTC").

    0 for labels that do not fit: of which there are, with a blank between equal ones, more than frames.
    """
    beyond_frames, beyond_labels = (
        jnp.arange(array.shape[1])[None] >= count[:, None] for array, count in ((logits, frames), (labels, lengths))
    )
    paddings = beyond_frames.astype(jnp.float32), beyond_labels.astype(jnp.float32)
    losses = optax.ctc_loss(logits, paddings[0], labels, paddings[1], blank_id=blank)
    repeated = jnp.sum((labels[:, 1:] == labels[:, :-1]) & ~beyond_labels[:, 1:], axis=1)
    return jnp.where((lengths >= 0) & (lengths + repeated <= frames), losses, 0.0)


LARGE_VOCABULARY, CHUNK = 16_384, 64
"""With so many tokens or more, logits exist for only so many positions of each row at a time, by default."""


def token_losses(
    logits: Callable[[Float[Array, "batch chunk d_model"]], Float[Array, "batch chunk rows"]],
    vectors: Float[Array, "batch length d_model"],
    labels: Int[Array, "batch length"],
    *,
    vocab_size: int,
    chunk: int | None = None,
    z_loss: float = 0.0,
) -> Float[Array, "batch length"]:
    """The cross-entropy of every label in nats, given `logits(vectors)`, of `chunk` positions of each row at a time.

    `z_loss` is added as by `cross_entropy`.

    The backward pass computes them again, chunk by chunk: a third product for the memory of all logits. With 0 all are
    computed at once, and with None if the vocabulary is small.
    """
    batch, length, _ = vectors.shape
    if chunk is None:
        chunk = CHUNK if vocab_size >= LARGE_VOCABULARY else 0
    if not 0 < chunk < length:
        return cross_entropy(logits(vectors), labels, vocab_size=vocab_size, z_loss=z_loss)[0]

    def in_chunks(array: Array) -> Array:
        widths = [(0, 0), (0, -length % chunk)] + [(0, 0)] * (array.ndim - 2)
        # Every chunk has positions from all over the row, so that devices that divide the length work together.
        parts = jnp.pad(array, widths).reshape(batch, chunk, -1, *array.shape[2:])
        return jnp.moveaxis(parts, 2, 0)

    @jax.checkpoint
    def losses(vectors: Array, labels: Array) -> Array:
        return cross_entropy(logits(vectors), labels, vocab_size=vocab_size, z_loss=z_loss)[0]

    _, chunks = jax.lax.scan(lambda _, part: (None, losses(*part)), None, (in_chunks(vectors), in_chunks(labels)))
    return jnp.moveaxis(chunks, 0, 2).reshape(batch, -1)[:, :length]
