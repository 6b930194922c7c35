"""Beam search over a toy model: each sentence has its own table of logits, looked up by a hash of all tokens so far."""

import collections
import functools
import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.decoding import beam, growth
from transformer_jax.nn.mask import MASKED

END, VOCAB, HASHES, SENTENCES = 1, 5, 101, 6
TABLES: np.ndarray = np.random.default_rng(1).normal(0, 2, (SENTENCES, HASHES, VOCAB)).astype(np.float32)
PROMPT = np.array([[2], [3], [4], [2], [3], [4]], np.int32)


def step(tokens, cache):
    def one(hashed, token):
        hashed = (hashed * 7 + token + 1) % HASHES
        return hashed, cache["tables"][cache["sentence"], hashed]

    hashed, logits = jax.lax.scan(one, cache["hash"], tokens.T)
    return jnp.moveaxis(logits, 0, 1), {**cache, "hash": hashed}


def reorder(cache, rows):
    return {**cache, "hash": cache["hash"][rows], "sentence": cache["sentence"][rows]}


def fresh(sentences: Sequence[int] = range(SENTENCES), tables=TABLES):
    sentence = jnp.array(list(sentences), jnp.int32)
    return {"tables": jnp.asarray(tables), "sentence": sentence, "hash": jnp.zeros_like(sentence)}


@functools.cache
def compiled(beam_size, capacity, options):
    @jax.jit
    def run(cache, prompt, limits):
        settings = {"beam_size": beam_size, "end_id": END, "max_new_tokens": limits, "capacity": capacity}
        return beam.beam_search(step, reorder, cache, prompt, **settings | dict(options))

    return run


def search(beam_size, limits, *, capacity=8, prompt=PROMPT, cache=None, **options):
    limits = jnp.broadcast_to(jnp.asarray(limits, jnp.int32), len(prompt))
    run = compiled(beam_size, capacity, tuple(options.items()))
    return arrays(run(fresh() if cache is None else cache, jnp.asarray(prompt), limits))


def arrays(found):
    return SimpleNamespace(**{name: np.asarray(array) for name, array in found._asdict().items()})


def assert_same(found, expected, rows: Any = slice(None), expected_rows: Any = slice(None)):
    for name, array in vars(found).items():
        np.testing.assert_array_equal(array[rows], getattr(expected, name)[expected_rows], err_msg=name)


def log_softmax(logits):
    logits = logits.astype(np.float64) - logits.max()
    return logits - np.log(np.exp(logits).sum())


def next_log_probs(sentence, text, tables=TABLES):
    hashed = 0
    for token in text:
        hashed = (hashed * 7 + int(token) + 1) % HASHES
    return log_softmax(tables[sentence, hashed])


def log_prob(sentence, prompt, text, tables=TABLES):
    prompt, text = list(prompt), list(text)
    return sum(next_log_probs(sentence, prompt + text[:i], tables)[token] for i, token in enumerate(text))


def beam_search_by_hand(
    sentence, prompt, beam_size, limit, alpha, forbidden=(), stopping="fairseq", ends=(END,), cut=False, tables=TABLES
):
    """The same search of one sentence with lists, in float64: (score, text) best first."""
    alive, finished = [(0.0, [])], []
    for length in range(1, limit + 1):
        candidates = []
        for total, text in alive:
            following = next_log_probs(sentence, list(prompt) + text, tables)
            best_end = max(ends, key=lambda token: following[token])
            allowed = [best_end] if length == limit and not cut else [i for i in range(VOCAB) if i not in forbidden]
            candidates += [(total + following[token], [*text, token]) for token in allowed]
        candidates.sort(key=lambda candidate: -candidate[0])
        over = [each for each in candidates[:beam_size] if each[1][-1] in ends or (cut and length == limit)]
        ended = [(total / ((5 + length) / 6) ** alpha, text) for total, text in over]
        finished = sorted(finished + ended, key=lambda hypothesis: -hypothesis[0])[:beam_size]
        alive = [candidate for candidate in candidates if candidate[1][-1] not in ends][:beam_size]
        best = [alive[0][0] / ((5 + n) / 6) ** alpha for n in (length, limit)] if alive else [-np.inf] * 2
        hope = {"fairseq": -np.inf, "transformers": best[0], "tensor2tensor": max(best)}[stopping]
        if len(finished) == beam_size and hope <= finished[-1][0]:
            break
    return finished


def texts(found, row):
    return [tokens[:length].tolist() for tokens, length in zip(found.tokens[row], found.lengths[row], strict=True)]


def check_invariants(found, limits, prompt=PROMPT, tables=TABLES, alpha=0.6, ends=(END,)):
    """Every hypothesis ends within its limit, is padded with zeros, and has the probability that the model gives it."""
    for row, limit in enumerate(limits):
        assert (np.diff(found.scores[row][np.isfinite(found.scores[row])]) <= 0).all()
        assert np.isfinite(found.scores[row, 0]) == (limit > 0)
        for slot, text in enumerate(texts(found, row)):
            np.testing.assert_array_equal(found.tokens[row, slot, len(text) :], 0)
            if not text:
                assert found.scores[row, slot] == found.log_probs[row, slot] == -np.inf
                continue
            assert len(text) <= limit and text[-1] in ends and not {*text[:-1]} & {*ends}
            expected = log_prob(row, prompt[row], text, tables)
            np.testing.assert_allclose(found.log_probs[row, slot], expected, rtol=1e-5)
            np.testing.assert_allclose(found.scores[row, slot], expected / ((5 + len(text)) / 6) ** alpha, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_beam_that_holds_every_text_finds_the_brute_force_best(alpha):
    others = [token for token in range(VOCAB) if token != END]
    every = [[*text, END] for length in range(4) for text in itertools.product(others, repeat=length)]
    found = search(len(every), 4, capacity=4, alpha=alpha)
    for row in range(SENTENCES):
        scored = [(log_prob(row, PROMPT[row], text) / ((5 + len(text)) / 6) ** alpha, text) for text in every]
        scored.sort(key=lambda pair: -pair[0])
        assert texts(found, row) == [text for _, text in scored]
        np.testing.assert_allclose(found.scores[row], [score for score, _ in scored], rtol=1e-5)


@pytest.mark.parametrize(
    ("beam_size", "alpha", "forbidden", "ends"),
    [
        (2, 0.0, (), (END,)),
        (3, 0.6, (0, 3), (END,)),
        (4, 1.5, (), (END,)),
        (4, 0.6, (3,), (END, 0)),
        (7, 0.6, (), (END,)),
        (3, 1.0, (), (3, END, 0)),
    ],
)
def test_beam_search_equals_the_same_search_written_with_lists(beam_size, alpha, forbidden, ends):
    limits = [8, 3, 8, 1, 5, 7]
    found = search(beam_size, limits, alpha=alpha, forbidden=forbidden, end_id=ends)
    check_invariants(found, limits, alpha=alpha, ends=ends)
    for row, limit in enumerate(limits):
        expected = beam_search_by_hand(row, PROMPT[row], beam_size, limit, alpha, forbidden, ends=ends)
        missing = beam_size - len(expected)
        assert texts(found, row) == [text for _, text in expected] + [[]] * missing
        np.testing.assert_allclose(found.scores[row], [score for score, _ in expected] + [-np.inf] * missing, rtol=1e-5)


def test_several_ends_leave_enough_that_do_not_end():
    tables, ends = TABLES.copy(), (3, END, 0)
    tables[..., ends] += 4
    rules: Any = {"stopping": "tensor2tensor"}
    found = search(3, 8, cache=fresh(tables=tables), alpha=3.0, end_id=ends, **rules)
    for row in range(SENTENCES):
        expected = beam_search_by_hand(row, PROMPT[row], 3, 8, 3.0, ends=ends, tables=tables, **rules)
        assert texts(found, row)[: len(expected)] == [text for _, text in expected]


def test_a_text_may_be_cut_at_its_limit():
    limits = [8, 3, 2, 1, 5, 7]
    found = search(3, limits, alpha=1.0, cut=True)
    for row, limit in enumerate(limits):
        expected = beam_search_by_hand(row, PROMPT[row], 3, limit, 1.0, cut=True)
        assert texts(found, row)[: len(expected)] == [text for _, text in expected]
    assert any(text[-1:] != [END] for row in range(SENTENCES) for text in texts(found, row)[:1])


@pytest.mark.parametrize(("scale", "forbidden"), [(1.0, ()), (1.0, (0, 3)), (1e4, ()), (0.0, (0, 3))])
def test_beam_one_is_greedy_search(scale, forbidden):
    limits, tables = [8, 3, 0, 1, 5, 8], TABLES * np.float32(scale)
    found = search(1, limits, cache=fresh(tables=tables), forbidden=forbidden)
    for row, limit in enumerate(limits):
        text, total = PROMPT[row].tolist(), 0.0
        while len(text) <= limit and text[1:][-1:] != [END]:
            log_probs = next_log_probs(row, text, tables)
            allowed = [END] if len(text) == limit else [i for i in range(VOCAB) if i not in forbidden]
            text.append(max(allowed, key=lambda i: log_probs[i]))
            total += log_probs[text[-1]]
        np.testing.assert_array_equal(found.tokens[row, 0], text[1:] + [0] * (9 - len(text)))
        np.testing.assert_allclose(found.log_probs[row, 0], total if limit else -np.inf, rtol=1e-5, atol=1e-6)


def test_rows_that_pad_the_vocabulary_are_no_continuations():
    logits = jnp.array([[0.5, 2.0, 1.0, MASKED, MASKED]])
    best, tokens = beam.continuations(logits, jnp.zeros(1), jnp.array([False]), 5, (0,), (2,))
    assert tokens[0, :2].tolist() == [1, 0] and jnp.isfinite(best[0, :2]).all()
    assert (best[0, 2:] == -jnp.inf).all()


def test_a_sentence_does_not_depend_on_its_neighbours_or_their_number():
    limits = np.array([8, 3, 8, 1, 5, 7])
    together = search(3, limits)
    order = [4, 4, 0, 5, 3, 2, 1, 0]
    padded = [5, 0, 8, 0, 1, 8, 3, 8]  # rows 1 and 3 are empty
    mixed = search(3, padded, prompt=PROMPT[order], cache=fresh(order))
    for row in range(SENTENCES):
        alone = search(3, limits[row : row + 1], prompt=PROMPT[row : row + 1], cache=fresh([row]))
        assert_same(alone, together, 0, row)
    for place, (row, limit) in enumerate(zip(order, padded, strict=True)):
        if limit:
            assert_same(mixed, together, place, row)
    for place in (1, 3):
        assert (mixed.lengths[place] == 0).all() and (mixed.tokens[place] == 0).all()
        assert (mixed.scores[place] == -np.inf).all() and (mixed.log_probs[place] == -np.inf).all()


def test_an_empty_row_whose_logits_are_nan_is_done_at_once():
    tables = TABLES.copy()
    tables[2] = np.nan
    found = search(3, [8, 8, 0, 8, 8, 8], cache=fresh(tables=tables))
    assert_same(found, search(3, 8), [0, 1, 3, 4, 5], [0, 1, 3, 4, 5])
    assert (found.lengths[2] == 0).all() and (found.scores[2] == -np.inf).all()
    assert positions(tables, 0)[1] == 0


def settings(limits, beam_size=3):
    return {"beam_size": beam_size, "end_id": END, "max_new_tokens": limits, "capacity": 8}


def positions(tables, limit, **options):
    """What a search finds, and at how many positions it extended hypotheses."""
    calls = []

    def counted(tokens, cache):
        jax.debug.callback(lambda: calls.append(1))
        return step(tokens, cache)

    limits = jnp.full(6, limit, jnp.int32)
    cache, prompt = fresh(tables=tables), jnp.asarray(PROMPT)
    found = jax.jit(lambda: beam.beam_search(counted, reorder, cache, prompt, **settings(limits), **options))()
    jax.effects_barrier()
    return found, len(calls)


def test_the_loop_stops_when_every_sentence_has_a_beam_of_finished_hypotheses():
    tables = np.zeros_like(TABLES)
    tables[..., END] = 5.0
    found, count = positions(tables, 8)
    # The first position ends one hypothesis, the second those that it left.
    assert count == 2 and (found.lengths == np.array([[1, 2, 2]])).all()


def test_a_search_in_which_no_hypothesis_is_left_stops_before_the_limit():
    forbidden = tuple(token for token in range(VOCAB) if token != END)
    found, count = positions(TABLES, 8, forbidden=forbidden)
    assert count == 1
    np.testing.assert_array_equal(found.lengths, [[1, 0, 0]] * 6)


def test_a_prompt_of_many_tokens_equals_feeding_them_one_by_one():
    prompt = np.random.default_rng(2).integers(2, VOCAB, (SENTENCES, 5)).astype(np.int32)
    cache = fresh()
    for position in range(4):
        _, cache = step(jnp.asarray(prompt[:, position : position + 1]), cache)
    together = search(3, 8, prompt=prompt)
    check_invariants(together, [8] * 6, prompt=prompt)
    assert_same(together, search(3, 8, prompt=prompt[:, -1:], cache=cache))


def test_the_prompt_is_fed_before_the_rows_are_repeated():
    seen = []

    def watched(tokens, cache):
        seen.append(tokens.shape)
        return step(tokens, cache)

    prompt = jnp.full((SENTENCES, 5), 2, jnp.int32)
    beam.beam_search(watched, reorder, fresh(), prompt, **settings(jnp.full(6, 8, jnp.int32)))
    assert seen[0] == (6, 4) and set(seen[1:]) == {(18, 1)}


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_model_that_never_wants_to_end_is_made_to_at_the_limit(beam_size):
    tables = TABLES.copy()
    tables[..., END] = -1e4
    limits = [8, 3, 8, 1, 5, 7]
    found = search(beam_size, limits, cache=fresh(tables=tables))
    check_invariants(found, limits, tables=tables)
    np.testing.assert_array_equal(found.lengths[:, 0], limits)


def test_rooms_grow_up_to_the_capacity_and_small_ones_are_not_worth_a_program():
    expected = {1: (1,), 64: (64,), 255: (255,), 256: (64, 256), 320: (64, 320), 1024: (64, 256, 1024)}
    assert {capacity: growth.rooms(capacity) for capacity in expected} == expected


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_search_asks_for_room_as_it_goes_on_and_finds_the_same(monkeypatch, beam_size):
    monkeypatch.setattr(growth, "ROOM", 2)
    monkeypatch.setattr(growth, "GROWTH", 2)
    asked = []

    def grow(cache, room):
        asked.append(room)
        return cache

    assert_same(search(beam_size, [8, 3, 0, 1, 5, 8], grow=grow), search(beam_size, [8, 3, 0, 1, 5, 8]))
    assert asked == [4, 8]


@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_large_logits_lose_nothing(shift):
    tables = np.round(TABLES * 64) / 64 + np.float32(shift)  # multiples of 1/64, which float32 holds exactly at 1e4
    found = search(3, 8, cache=fresh(tables=tables))
    check_invariants(found, [8] * 6, tables=tables)
    assert_same(found, search(3, 8, cache=fresh(tables=tables - np.float32(shift))))


def test_equals_are_settled_by_the_lower_slot_and_token():
    found = search(2, 3, cache=fresh(tables=np.zeros_like(TABLES)), alpha=0.0)
    for row in range(SENTENCES):
        # [0] and [end] are the best two of the first position; [0, end] is the second best of the second.
        assert texts(found, row) == [[END], [0, END]]


def test_length_penalty_is_that_of_the_paper():
    lengths = jnp.array([1, 7, 13])
    np.testing.assert_allclose(beam.length_penalty(lengths, 1.0), [1.0, 2.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(beam.length_penalty(lengths, 0.6), [1.0, 1.5157166, 1.9331820], rtol=1e-6)
    np.testing.assert_allclose(beam.length_penalty(lengths, 0.0), 1.0)


def test_a_penalty_prefers_longer_texts():
    plain, penalised = search(4, 8, alpha=0.0), search(4, 8, alpha=2.0)
    assert penalised.lengths[:, 0].sum() > plain.lengths[:, 0].sum()


def test_forbidden_tokens_never_appear_and_keep_the_probabilities_of_the_others():
    found = search(4, 8, forbidden=(0, 3))
    check_invariants(found, [8] * 6)
    assert not np.isin(found.tokens, 3).any()
    inside = np.arange(8)[None, None] < found.lengths[..., None]
    assert not (inside & (found.tokens == 0)).any()


def test_limits_beyond_the_capacity_mean_the_capacity():
    assert_same(search(3, 99), search(3, 8))


def test_arguments_that_leave_nothing_to_search_are_refused():
    arguments = {"prompt": jnp.asarray(PROMPT), **settings(jnp.full(6, 8, jnp.int32))}
    for wrong, message in [
        ({"beam_size": 0}, "beam_size is 0"),
        ({"beam_size": 4, "groups": 3}, "does not divide beam_size 4"),
        ({"forbidden": (END,)}, "end token"),
        ({"capacity": 0}, "capacity is 0"),
        ({"prompt": arguments["prompt"][:, :0]}, "prompt is empty"),
    ]:
        with pytest.raises(ValueError, match=message):
            beam.beam_search(step, reorder, fresh(), **arguments | wrong)


def diverse_search_by_hand(sentence, prompt, beam_size, groups, diversity, limit, alpha=0.6):
    """Diverse beam search of one sentence with lists: (score, text) best first."""
    size = beam_size // groups
    alive, finished = [[(0.0, [])] for _ in range(groups)], [[] for _ in range(groups)]
    for length in range(1, limit + 1):
        used = collections.Counter()
        for group in range(groups):
            candidates = []
            for total, text in alive[group]:
                following = next_log_probs(sentence, list(prompt) + text)
                for token in [END] if length == limit else range(VOCAB):
                    log_prob = total + following[token]
                    candidates.append((log_prob - diversity * used[token], log_prob, [*text, token]))
            candidates.sort(key=lambda candidate: -candidate[0])
            ended = [(total / ((5 + length) / 6) ** alpha, text) for _, total, text in candidates[:size] if END in text]
            finished[group] = sorted(finished[group] + ended, key=lambda hypothesis: -hypothesis[0])[:size]
            alive[group] = [(total, text) for _, total, text in candidates if END not in text][:size]
            if len(finished[group]) == size:
                alive[group] = []
            used.update(text[-1] for _, text in alive[group])
    return sorted(itertools.chain(*finished), key=lambda hypothesis: -hypothesis[0])


@pytest.mark.parametrize(("beam_size", "groups", "diversity"), [(4, 2, 0.5), (6, 3, 2.0), (3, 3, 1.0)])
def test_diverse_beam_search_equals_the_same_search_written_with_lists(beam_size, groups, diversity):
    limits = [8, 3, 8, 1, 5, 7]
    found = search(beam_size, limits, groups=groups, diversity=diversity)
    check_invariants(found, limits)
    plain = search(beam_size, limits)
    for row, limit in enumerate(limits):
        expected = diverse_search_by_hand(row, PROMPT[row], beam_size, groups, diversity, limit)
        assert expected
        assert texts(found, row)[: len(expected)] == [text for _, text in expected]
        np.testing.assert_allclose(found.scores[row, : len(expected)], [score for score, _ in expected], rtol=1e-5)
    assert not np.array_equal(found.tokens, plain.tokens)


def test_sentences_are_done_as_each_tool_says():
    found = {}
    for stopping in ("fairseq", "transformers", "tensor2tensor"):
        result = search(3, 8, alpha=2.0, stopping=stopping)
        found[stopping] = [texts(result, row) for row in range(SENTENCES)]
        for row in range(SENTENCES):
            expected = beam_search_by_hand(row, PROMPT[row], 3, 8, 2.0, stopping=stopping)
            assert found[stopping][row] == [text for _, text in expected]
        # Ends that are likelier: that a length counts the token that was just added decides here.
        tables = TABLES.copy()
        tables[..., END] += 1
        result = search(3, 8, cache=fresh(tables=tables), alpha=2.0, stopping=stopping)
        for row in range(SENTENCES):
            expected = beam_search_by_hand(row, PROMPT[row], 3, 8, 2.0, stopping=stopping, tables=tables)
            assert texts(result, row)[: len(expected)] == [text for _, text in expected]
    assert len({str(each) for each in found.values()}) == 3, "no two of them find the same"
