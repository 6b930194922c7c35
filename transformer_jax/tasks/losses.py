"""Losses."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "batch length rows"],
    labels: Int[Array, "batch length"],
    *,
    vocab_size: int,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"]]:
    """Cross-entropy of every label in nats, with label smoothing and without.

    The smoothed target is `(1 - e) * one_hot(label) + e / vocab_size` (Szegedy et al. 2016, section 7): the mass goes
    to all real tokens, the label included. Written through the log-sum-exp, so that no log-softmax is kept for the
    backward pass. Rows from `vocab_size` on pad the vocabulary.
    """
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    label_logit = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    plain = log_normalizer - label_logit
    if not label_smoothing:
        return plain, plain
    real = logits
    if logits.shape[-1] != vocab_size:
        real = jnp.where(jnp.arange(logits.shape[-1]).reshape(1, 1, -1) < vocab_size, logits, 0.0)
    uniform = log_normalizer - jnp.sum(real, axis=-1) / vocab_size
    return (1 - label_smoothing) * plain + label_smoothing * uniform, plain
