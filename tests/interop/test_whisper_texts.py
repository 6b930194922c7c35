"""Rules and segments of texts with times, against those of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.interop.whisper_texts import NotFirst, Timestamps, segments_of

BEGIN, END, VOCABULARY, ROWS = 12, 8, 24, 200
"""Words are before the end token, others behind it, the last of them asks for no times; then times."""


def after(constraint, texts):
    """The state behind texts of one length."""
    state = constraint.start(jnp.ones((len(texts), 1), jnp.int32), jnp.ones(len(texts), jnp.int32), 9)
    for tokens in np.transpose(texts):
        state = jax.jit(constraint.advance)(state, jnp.asarray(tokens))
    return state


@pytest.mark.parametrize("length", range(5))
def test_times_are_allowed_as_in_transformers(length):
    processors = pytest.importorskip("transformers.generation.logits_process", reason="compares with transformers")
    torch, random = pytest.importorskip("torch"), np.random.default_rng(length)
    config = type("", (), {"no_timestamps_token_id": BEGIN - 1, "eos_token_id": END, "max_initial_timestamp_index": 3})
    theirs = processors.WhisperTimeStampLogitsProcessor(config, begin_index=1)
    words = random.integers(0, END, (ROWS, length))
    times = np.sort(random.integers(BEGIN, VOCABULARY - 2, (ROWS, length)))
    is_time = (random.random((ROWS, length)) < 0.5) | (np.arange(length) == 0)  # with which all begin
    texts = np.where(is_time, times, words)
    logits = (random.normal(size=(ROWS, VOCABULARY)) * 2).astype(np.float32)
    logits[:, BEGIN - 1] = -np.inf  # which is forbidden anyway
    prompted = torch.tensor(np.concatenate([np.zeros((ROWS, 1), int), texts], axis=1))
    expected = theirs(prompted, torch.tensor(logits)).numpy()
    rules = Timestamps(BEGIN, END, latest=3)
    found = jax.jit(rules.allow)(jnp.asarray(logits), after(rules, texts))
    np.testing.assert_array_equal(found, expected)
    kept = np.isfinite(expected)
    # Behind nothing there is a time, behind one time none.
    assert 0 < kept.mean() < 1 and (length < 2 or (0 < kept[:, BEGIN:].mean() < 1 and 0 < kept[:, :END].mean() < 1))


def test_a_text_does_not_begin_with_what_is_ruled_out_there():
    rules, logits = NotFirst((2, 5)), jnp.zeros((3, 7))
    first = np.asarray(rules.allow(logits, after(rules, np.zeros((3, 0), int))))
    assert np.isinf(first[:, [2, 5]]).all() and np.isfinite(first[:, [0, 1, 3, 4, 6]]).all()
    np.testing.assert_array_equal(rules.allow(logits, after(rules, np.zeros((3, 1), int))), logits)


def test_segments_and_the_next_window_are_those_of_transformers():
    torch = pytest.importorskip("torch")
    whisper = pytest.importorskip("transformers.models.whisper.generation_whisper")
    random, begin, cases = np.random.default_rng(0), 50, set()
    for _ in range(300):
        times = np.sort(random.integers(1, 20, random.integers(1, 9))) + begin
        tokens = [begin]
        for time in times:
            tokens += [*random.integers(0, 9, random.integers(1, 3)), *([time] * random.integers(0, 3))]
        (segments, ahead) = whisper.WhisperGenerationMixin._retrieve_segment(
            torch.tensor(tokens), [{}], torch.zeros(1, dtype=torch.float64), begin, torch.tensor([40]), 0.02, 0.01, 2,
            0, 0, False, torch.zeros((1, 3)),
        )  # fmt: skip
        ours, next_window = segments_of([int(token) for token in tokens], begin, 40)
        assert next_window == int(ahead)
        right = [(round(float(of["start"]) * 100), round(float(of["end"]) * 100)) for of in segments]
        assert [(start, end) for start, end, _ in ours] == right
        words = [[token for token in of["tokens"].tolist() if token < begin] for of in segments]
        assert [[token for token in ids if token < begin] for *_, ids in ours] == words
        cases.add((len(ours) > 1, next_window < 40))
    assert len(cases) == 4 and segments_of([], begin, 40) == ([], 40)
