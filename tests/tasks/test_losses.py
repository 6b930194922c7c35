import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.tasks.losses import cross_entropy, token_losses

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


def test_z_loss_is_the_square_of_the_log_normaliser_and_no_part_of_the_plain_loss():
    normaliser = np.log(np.exp(LOGITS.astype(np.float64)).sum(axis=-1))
    for smoothing in (0.0, 0.1):
        settings = {"vocab_size": 7, "label_smoothing": smoothing}
        without, plain = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), **settings)
        loss, same = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), **settings, z_loss=0.01)
        np.testing.assert_allclose(loss - without, 0.01 * normaliser**2, rtol=1e-4)
        np.testing.assert_array_equal(same, plain)


def test_rows_that_pad_the_vocabulary_take_no_smoothing():
    padded = np.concatenate([LOGITS, np.full((2, 3, 9), -1e30, np.float32)], axis=-1)
    small = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), vocab_size=7, label_smoothing=0.1)
    large = cross_entropy(jnp.asarray(padded), jnp.asarray(LABELS), vocab_size=7, label_smoothing=0.1)
    np.testing.assert_allclose(small[0], large[0], rtol=1e-6)


def test_gradients_of_huge_logits_are_finite():
    gradient = jax.grad(lambda x: cross_entropy(x, jnp.asarray(LABELS), vocab_size=7, label_smoothing=0.1)[0].sum())
    assert jnp.isfinite(gradient(jnp.asarray(LOGITS) * 1e4)).all()


@pytest.mark.parametrize("chunk", [1, 3, 4, 7, 20])
def test_chunked_loss_and_gradients_equal_the_plain_ones(chunk):
    rng = np.random.default_rng(2)
    vectors, table = jnp.asarray(rng.normal(size=(2, 7, 5))), jnp.asarray(rng.normal(size=(11, 5)))
    labels, weights = jnp.asarray(rng.integers(0, 11, (2, 7))), jnp.asarray(rng.normal(size=(2, 7)))

    def logits(vectors, table):
        return jnp.einsum("bld,vd->blv", vectors, table)

    def plain(vectors, table):
        return jnp.sum(weights * cross_entropy(logits(vectors, table), labels, vocab_size=11, z_loss=0.1)[0])

    def chunked(vectors, table):
        def of_chunk(part):
            return logits(part, table)

        return jnp.sum(weights * token_losses(of_chunk, vectors, labels, chunk=chunk, vocab_size=11, z_loss=0.1))

    expected = jax.value_and_grad(plain, argnums=(0, 1))(vectors, table)
    found = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1)))(vectors, table)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_chunked_loss_never_holds_all_logits():
    def loss(vectors, table):
        def logits(part):
            return jnp.einsum("bld,vd->blv", part, table)

        labels = jnp.zeros((4, 64), jnp.int32)
        return jnp.sum(token_losses(logits, vectors, labels, chunk=8, vocab_size=1000))

    shapes = jax.ShapeDtypeStruct((4, 64, 16), jnp.float32), jax.ShapeDtypeStruct((1000, 16), jnp.float32)
    text = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(*shapes))
    assert "f32[4,8,1000]" in text and "4,64,1000" not in text and "8,4,8,1000" not in text
