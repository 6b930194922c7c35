"""Generation with a toy model whose next token depends on all tokens before, through a hash of them; and with ours."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import ArrayLike

from transformer_jax.decoding.beam import beam_search
from transformer_jax.decoding.sampling import (
    Sampling,
    continue_generation,
    cut_at,
    filtered_logits,
    start_generation,
)
from transformer_jax.models.decoder_only import llama

END, VOCAB, HASHES, CAPACITY = 1, 6, 101, 8
TABLE = np.random.default_rng(0).normal(0, 2, (HASHES, VOCAB)).astype(np.float32)
TABLE[:, END] -= 2  # or most texts would be too short to tell anything
GREEDY = Sampling(temperature=0.0)
PROMPTS = [[2], [3, 2, 4], [4, 4], [2, 5, 3, 2, 4], [2, 0, 4, 3], [3], [3, 3, 3], [0, 2]]


def following(hashed, token):
    return (hashed * 7 + token + 1) % HASHES


def extend(tokens, cache):
    def one(hashed, token):
        hashed = following(hashed, token)
        return hashed, jnp.asarray(TABLE)[hashed]

    cache, logits = jax.lax.scan(one, cache, tokens.T)
    return jnp.moveaxis(logits, 0, 1), cache


def prefill(tokens, lengths):
    """What a model does with left-padded prompts: the padding leaves no trace in the cache."""

    def one(hashed, column):
        token, real = column
        return jnp.where(real, following(hashed, token), hashed), None

    real = jnp.arange(tokens.shape[1])[None] >= tokens.shape[1] - lengths[:, None]
    hashed, _ = jax.lax.scan(one, jnp.zeros_like(lengths), (tokens.T, real.T))
    return jnp.asarray(TABLE)[hashed], hashed


def padded(prompts, filler=5):
    width = max(map(len, prompts))
    lengths = jnp.array([len(prompt) for prompt in prompts])
    return jnp.array([[filler] * (width - len(prompt)) + prompt for prompt in prompts]), lengths


@partial(jax.jit, static_argnames=("sampling", "end_id", "forbidden"))
def start(tokens, lengths, limits, row_ids, seed, *, sampling, end_id, forbidden):
    return start_generation(
        *prefill(tokens, lengths),
        tokens,
        lengths,
        seed=seed,
        row_ids=row_ids,
        max_new_tokens=limits,
        capacity=CAPACITY,
        sampling=sampling,
        end_id=end_id,
        forbidden=forbidden,
    )


def begin(
    prompts=PROMPTS,
    limits: ArrayLike = CAPACITY,
    *,
    rows=None,
    seed=0,
    sampling=GREEDY,
    end_id: int | None = END,
    **options,
):
    limits = jnp.broadcast_to(jnp.asarray(limits, jnp.int32), len(prompts))
    row_ids = jnp.arange(len(prompts)) if rows is None else jnp.asarray(rows)
    options = {"forbidden": (), "filler": 5} | options
    tokens, lengths = padded(prompts, options.pop("filler"))
    return start(tokens, lengths, limits, row_ids, seed, sampling=sampling, end_id=end_id, **options)


advance = jax.jit(partial(continue_generation, extend))


def generate(*arguments, **options):
    return advance(begin(*arguments, **options), CAPACITY)


def logits_after(text):
    hashed = 0
    for token in text:
        hashed = following(hashed, token)
    return TABLE[hashed].astype(np.float64)


def log_prob(prompt, text):
    total = 0.0
    for i, token in enumerate(text):
        logits = logits_after(prompt + text[:i])
        total += logits[token] - np.log(np.exp(logits).sum())
    return total


def texts(state):
    return [row[:length].tolist() for row, length in zip(state.tokens, state.lengths, strict=True)]


@pytest.mark.parametrize("forbidden", [(), (0, 3)])
def test_temperature_zero_is_greedy_search_but_for_the_end_at_the_limit(forbidden):
    limits = jnp.array([8, 8, 8, 8, 1, 2, 3, 5])
    state = generate(limits=limits, sampling=GREEDY, forbidden=forbidden)
    assert texts(generate(limits=limits, sampling=Sampling(temperature=1e-320), forbidden=forbidden)) == texts(state)
    prompts, sizes = padded(PROMPTS)
    # Greedy search makes a text end within its limit, so it gets room for an end that does not count here.
    greedy = beam_search(
        extend,
        lambda cache, rows: cache[rows],
        prefill(prompts[:, :-1], sizes - 1)[1],
        prompts[:, -1:],
        end_id=END,
        max_new_tokens=limits + 1,
        capacity=CAPACITY + 1,
        forbidden=forbidden,
        beam_size=1,
    )
    tokens, lengths, log_probs = greedy.tokens[:, 0], greedy.lengths[:, 0], greedy.log_probs[:, 0]
    ended = np.asarray(lengths <= limits)
    assert 0 < ended.sum() < len(PROMPTS)
    assert texts(state) == [
        row[: min(n, limit)].tolist() for row, n, limit in zip(tokens, lengths, limits, strict=True)
    ]
    np.testing.assert_allclose(state.log_probs[ended], log_probs[ended], rtol=1e-6)


def test_log_probabilities_are_those_of_the_unfiltered_model():
    sampling = Sampling(temperature=2.0, top_k=4, repetition_penalty=1.5)
    state = generate(sampling=sampling, forbidden=(3,))
    assert len(set(map(len, texts(state)))) > 2
    for prompt, text, found in zip(PROMPTS, texts(state), state.log_probs, strict=True):
        np.testing.assert_allclose(found, log_prob(prompt, text), rtol=1e-5)
        assert 3 not in text


def test_log_probabilities_among_allowed_tokens_leave_out_the_others():
    state = generate(forbidden=(3,))
    for prompt, text, found in zip(PROMPTS, texts(state), state.allowed_log_probs, strict=True):
        lost = [logits_after(prompt + text[:i]) for i in range(len(text))]
        shares = [1 - np.exp(logits[3]) / np.exp(logits).sum() for logits in lost]
        np.testing.assert_allclose(found, log_prob(prompt, text) - np.log(shares).sum(), rtol=1e-4)


def test_without_an_end_token_only_the_limit_ends_a_text():
    state = generate(limits=np.array([0, 1, 2, 3, 5, 8, 99, 99]), end_id=None, sampling=Sampling())
    np.testing.assert_array_equal(state.lengths, [0, 1, 2, 3, 5, 8, 8, 8])
    assert any(END in text[:-1] for text in texts(state))
    assert not state.alive.any()
    after = np.arange(CAPACITY)[None] >= np.asarray(state.lengths)[:, None]
    np.testing.assert_array_equal(np.asarray(state.tokens)[after], 0)
    assert state.log_probs[0] == 0


def test_what_a_row_draws_depends_on_seed_and_number_and_prompt_alone():
    whole = generate(sampling=Sampling(), rows=range(8), end_id=None)
    back = generate(PROMPTS[::-1], sampling=Sampling(), rows=range(7, -1, -1), end_id=None, filler=0)
    alone = generate(PROMPTS[2:3], sampling=Sampling(), rows=[2], end_id=None)
    assert texts(back) == texts(whole)[::-1]
    assert texts(alone) == texts(whole)[2:3]
    same = [PROMPTS[0]] * 8
    assert len(set(map(tuple, texts(generate(same, sampling=Sampling(), end_id=None))))) == 8
    assert texts(generate(sampling=Sampling(), end_id=None, seed=1)) != texts(whole)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(top_p=0.9, repetition_penalty=1.3)])
@pytest.mark.parametrize("piece", [1, 3])
def test_pieces_make_the_whole_and_an_ended_generation_stays_where_it_is(piece, sampling):
    limits = np.array([2, 5, 6, 7, 7, 3, 4, 1])
    whole = generate(limits=limits, sampling=sampling)
    assert whole.position == whole.lengths.max() < CAPACITY  # it stops with the longest row
    state, traces = begin(limits=limits, sampling=sampling), []

    @jax.jit
    def advance_counting(state, steps):
        traces.append(steps)
        return continue_generation(extend, state, steps)

    for _ in range(CAPACITY):
        state = advance_counting(state, piece)
    assert len(traces) == 1
    for found, expected in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True):
        assert (found == expected).all()


def test_a_row_taken_out_of_alive_stays_as_it_is_and_the_others_go_on():
    state = advance(begin(sampling=Sampling(), end_id=None), 2)
    ended = advance(replace(state, alive=state.alive.at[3].set(False)), CAPACITY)
    expected = texts(advance(state, CAPACITY))
    expected[3] = expected[3][:3]
    assert texts(ended) == expected


def test_drawn_tokens_have_the_probabilities_of_the_filtered_logits():
    rows = 4000
    sampling = Sampling(temperature=1.5, top_k=4)
    state = begin([[2, 4]] * rows, limits=2, sampling=sampling, end_id=None)
    first, second = np.asarray(advance(state, 1).tokens[:, :2]).T
    assert len(set(first.tolist())) == 4
    drawn = {(): first} | {(token,): second[first == token] for token in set(first.tolist())}
    for text, tokens in drawn.items():
        logits = jnp.asarray(logits_after([2, 4, *text])[None], jnp.float32)
        expected = jax.nn.softmax(filtered_logits(logits, sampling, None))[0]
        share = np.bincount(tokens, minlength=VOCAB) / len(tokens)
        np.testing.assert_allclose(share, expected, atol=2 / len(tokens) ** 0.5)


def test_a_repetition_penalty_sees_prompt_and_text_but_no_padding():
    sampling = Sampling(temperature=0.0, repetition_penalty=3.0)
    state = generate(sampling=sampling, end_id=None)
    for prompt, text in zip(PROMPTS, texts(state), strict=True):
        for i, token in enumerate(text):
            logits = logits_after(prompt + text[:i])
            for seen in {*prompt, *text[:i]}:
                logits[seen] = logits[seen] / 3 if logits[seen] > 0 else logits[seen] * 3
            assert token == logits.argmax()
    assert texts(state) != texts(generate(end_id=None))
    for filler in range(VOCAB):
        assert texts(generate(sampling=sampling, end_id=None, filler=filler)) == texts(state)


def filtered_by_hand(logits, sampling, seen):
    """The same rules, a token at a time, in float64."""
    logits = {i: float(value) for i, value in enumerate(logits)}
    for i in np.flatnonzero(seen).tolist():
        factor = 1 / sampling.repetition_penalty if logits[i] > 0 else sampling.repetition_penalty
        logits[i] *= factor
    logits = {i: value / sampling.temperature for i, value in logits.items()}
    if sampling.top_k:
        logits = dict(sorted(logits.items(), key=lambda item: -item[1])[: sampling.top_k])
    total, kept = sum(map(math.exp, logits.values())), 0.0
    for i in sorted(logits, key=lambda i: -logits[i]):
        probability = math.exp(logits[i]) / total
        if sampling.top_p < 1 and kept >= sampling.top_p:
            del logits[i]
        kept += probability
    highest = max(logits.values())
    return {i: value for i, value in logits.items() if math.exp(value - highest) >= sampling.min_p}


FILTERS = [
    Sampling(),
    Sampling(temperature=0.3, repetition_penalty=1.7),
    Sampling(top_k=1),
    Sampling(top_k=5),
    Sampling(top_k=1000),
    Sampling(top_p=0.6),
    Sampling(top_p=1e-6),
    Sampling(min_p=0.1),
    Sampling(min_p=1.0),
    Sampling(temperature=1.4, top_k=20, top_p=0.8, min_p=0.05, repetition_penalty=1.2),
    Sampling(temperature=0.7, top_k=7, top_p=0.95, min_p=0.2, repetition_penalty=0.6),
]


def rows_of_logits(rows=20, vocabulary=40):
    generator = np.random.default_rng(3)
    logits = generator.normal(0, 3, (rows, vocabulary)).astype(np.float32)
    return logits, generator.random((rows, vocabulary)) < 0.3


@pytest.mark.parametrize("sampling", FILTERS)
def test_filters_keep_what_a_token_at_a_time_would(sampling):
    logits, seen = rows_of_logits()
    found = np.asarray(filtered_logits(jnp.asarray(logits), sampling, jnp.asarray(seen)))
    for row in range(len(logits)):
        expected = np.full(logits.shape[1], -np.inf)
        for token, value in filtered_by_hand(logits[row], sampling, seen[row]).items():
            expected[token] = value
        np.testing.assert_allclose(found[row], expected, rtol=1e-5)


@pytest.mark.parametrize("sampling", FILTERS)
def test_filters_equal_those_of_hugging_face(sampling):
    torch = pytest.importorskip("torch", reason="PyTorch, in which the other implementation is, is not installed")
    process = pytest.importorskip("transformers.generation.logits_process", reason="needs transformers")
    logits, seen = rows_of_logits()
    found = np.asarray(filtered_logits(jnp.asarray(logits), sampling, jnp.asarray(seen)))
    steps = [
        process.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
        process.TemperatureLogitsWarper(sampling.temperature),
        process.TopKLogitsWarper(sampling.top_k or logits.shape[1]),
        process.TopPLogitsWarper(sampling.top_p),
        process.MinPLogitsWarper(sampling.min_p),
    ]
    for row in range(len(logits)):
        text, expected = torch.tensor(np.flatnonzero(seen[row]))[None], torch.tensor(logits[row : row + 1])
        for step in steps:
            expected = step(text, expected)
        np.testing.assert_allclose(found[row], expected[0].numpy(), rtol=1e-5)


def test_low_precision_and_rows_that_pad_the_vocabulary_do_no_harm():
    logits, _ = rows_of_logits(vocabulary=8)
    logits[:, 6:] = -1e30
    logits[:, 5] = -np.inf
    sampling = Sampling(temperature=0.9, top_p=0.9999, min_p=1e-6, repetition_penalty=1.5)
    found = filtered_logits(jnp.asarray(logits, jnp.bfloat16), sampling, jnp.ones((20, 8), bool))
    assert found.dtype == jnp.float32
    assert np.isneginf(found[:, 5:]).all() and np.isfinite(found[:, :5]).any(axis=1).all()


def test_left_padded_prompts_of_a_model_continue_as_the_full_forward_says():
    model = llama(d_model=16, num_heads=2, d_ff=16, num_layers=2, vocab_size=13).build(seed=0)
    generator = np.random.default_rng(0)
    prompts = [generator.integers(0, 13, size).tolist() for size in (1, 6, 3)]

    @jax.jit
    def run(model, tokens, lengths):
        cache = model.start_cache(len(lengths), tokens.shape[1] + CAPACITY - 1)
        logits, cache = model.prefill(tokens, lengths, cache)
        limits = jnp.full(len(lengths), CAPACITY)
        options = {"seed": 0, "row_ids": limits, "max_new_tokens": limits, "capacity": CAPACITY, "sampling": GREEDY}
        state = start_generation(logits, cache, tokens, lengths, **options)
        return continue_generation(model.extend, state, CAPACITY)

    state = run(model, *padded(prompts))
    whole = [prompt + text for prompt, text in zip(prompts, texts(state), strict=True)]
    full = jax.jit(model)(jnp.array([text + [0] * (14 - len(text)) for text in whole]))
    for row, (prompt, text) in enumerate(zip(prompts, whole, strict=True)):
        logits = full[row, len(prompt) - 1 : len(text) - 1]
        assert text[len(prompt) :] == jnp.argmax(logits, axis=-1).tolist()
        expected = jnp.max(jax.nn.log_softmax(logits), axis=-1).sum()
        np.testing.assert_allclose(state.log_probs[row], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.inf},
        *({name: math.nan} for name in ("temperature", "top_p", "min_p", "repetition_penalty")),
    ],
)
def test_impossible_numbers_are_refused_in_one_line(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^sampling.{name} must be .*, not {wrong[name]}"):
        begin(sampling=Sampling(**wrong))


def test_a_generation_without_room_is_refused():
    tokens, lengths = padded(PROMPTS)
    with pytest.raises(ValueError, match="capacity is 0"):
        options = {"seed": 0, "row_ids": lengths, "max_new_tokens": lengths, "capacity": 0}
        start_generation(*prefill(tokens, lengths), tokens, lengths, **options)


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one\n\ntwo\n\nthree", ["\n\n"], ("one", True)),
        ("one two", ["\n\n"], ("one two", False)),
        ("one two", [], ("one two", False)),
        ("User: hi", ["User:"], ("", True)),
        ("xabcd", ["abcd", "bc"], ("xa", True)),
        ("xabc", ["bc", "abc", "c"], ("x", True)),
        ("one\n", ["\n\n"], ("one\n", False)),
    ],
)
def test_a_text_is_cut_before_the_stop_string_that_is_complete_first(text, stops, expected):
    assert cut_at(text, stops) == expected


def test_what_could_become_a_stop_string_is_held_back_while_the_text_grows():
    assert cut_at("one\n", ["\n\n"], more=True) == ("one", False)
    assert cut_at("say <|end", ["<|end|>", "d!"], more=True) == ("say ", False)
    assert cut_at("say <|end!", ["<|end|>"], more=True) == ("say <|end!", False)


def test_a_text_that_grows_in_pieces_is_cut_where_one_that_grows_by_letters_is():
    generator = np.random.default_rng(0)
    for _ in range(300):
        stops = ["".join(generator.choice(list("ab"), generator.integers(1, 5))) for _ in range(2)]
        text = "".join(generator.choice(list("abc"), 12))
        end = next((end for end in range(13) if text[:end].endswith(tuple(stops))), None)
        longest = max((len(stop) for stop in stops if end and text[:end].endswith(stop)), default=0)
        expected = (text, False) if end is None else (text[: end - longest], True)
        assert cut_at(text, stops) == expected
        shown, at, found = "", 0, False
        while at < len(text) and not found:
            at += int(generator.integers(1, 4))
            grown, found = cut_at(text[:at], stops, more=at < len(text))
            assert grown.startswith(shown)
            shown = grown
        assert (shown, found) == expected


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="stop string is empty"):
        cut_at("text", ["a", ""])
