import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.tasks.losses import cross_entropy

LOGITS = np.random.default_rng(0).normal(size=(2, 3, 7)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 7, (2, 3))


def test_loss_equals_torch_with_label_smoothing():
    torch = pytest.importorskip("torch", reason="PyTorch, the implementation to compare with, is not installed")
    for smoothing in (0.0, 0.1):
        loss, _ = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), vocab_size=7, label_smoothing=smoothing)
        expected = torch.nn.functional.cross_entropy(
            torch.tensor(LOGITS).reshape(-1, 7),
            torch.tensor(LABELS).reshape(-1),
            label_smoothing=smoothing,
            reduction="none",
        )
        np.testing.assert_allclose(loss.reshape(-1), expected.numpy(), rtol=1e-5)


def test_rows_that_pad_the_vocabulary_take_no_smoothing():
    padded = np.concatenate([LOGITS, np.full((2, 3, 9), -1e30, np.float32)], axis=-1)
    small = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), vocab_size=7, label_smoothing=0.1)
    large = cross_entropy(jnp.asarray(padded), jnp.asarray(LABELS), vocab_size=7, label_smoothing=0.1)
    np.testing.assert_allclose(small[0], large[0], rtol=1e-6)


def test_gradients_of_huge_logits_are_finite():
    gradient = jax.grad(lambda x: cross_entropy(x, jnp.asarray(LABELS), vocab_size=7, label_smoothing=0.1)[0].sum())
    assert jnp.isfinite(gradient(jnp.asarray(LOGITS) * 1e4)).all()
