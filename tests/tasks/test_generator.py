import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.data.tokenizers import Bytes
from transformer_jax.decoding import growth
from transformer_jax.decoding.sampling import Sampling
from transformer_jax.models.decoder_only import gpt2, llama
from transformer_jax.tasks import generator as generator_module
from transformer_jax.tasks.generator import Generation, TextGenerator

TOKENIZER = Bytes().train([])
SIZE = {"d_model": 16, "num_heads": 2, "d_ff": 32, "num_layers": 2, "vocab_size": 260}
PROMPTS = ["ab", "", "a longer prompt", "xyz"]
GREEDY = Generation(max_new_tokens=12, sampling=Sampling(temperature=0.0), chunk=5)
FREE = dataclasses.replace(GREEDY, sampling=Sampling())
FORBIDDEN = [TOKENIZER.pad_id, TOKENIZER.bos_id, TOKENIZER.unk_id]


@pytest.fixture(scope="module", params=["learned", pytest.param("windows", marks=pytest.mark.slow)])
def model(request):
    if request.param == "learned":
        return gpt2(**SIZE, max_length=64).build(0)
    return llama(**SIZE, pattern=("local", "global"), window=4).build(0)


def make(model, generation=GREEDY, max_length=64):
    return TextGenerator(model, TOKENIZER, generation, max_length=max_length)


read = jax.jit(lambda model, tokens: model(tokens))


def next_token(model, ids):
    """The most probable token after a text, which is read as a whole; what pads it on the right changes nothing."""
    logits = np.array(read(model, jnp.asarray([ids + [0] * (32 - len(ids))]))[0, len(ids) - 1, :260])
    logits[FORBIDDEN] = -np.inf
    return int(logits.argmax())


def greedy_by_hand(model, prompt, count):
    """The most probable next token, again and again, reading the whole text each time."""
    ids = [TOKENIZER.bos_id, *TOKENIZER.encode(prompt)]
    start = len(ids)
    for _ in range(count):
        ids.append(next_token(model, ids))
        if ids[-1] == TOKENIZER.eos_id:
            break
    return TOKENIZER.decode(ids[start:])


def test_greedy_continuations_are_those_of_reading_everything_again(model):
    found = make(model).generate(PROMPTS)
    assert found == [greedy_by_hand(model, prompt, 12) for prompt in PROMPTS]
    assert make(model, dataclasses.replace(GREEDY, beam_size=1, tokens_per_batch=16)).generate(PROMPTS) == found


def test_a_seed_and_a_place_give_a_text_whatever_stands_beside(model):
    found = make(model, FREE).generate(PROMPTS)
    assert found == make(model, dataclasses.replace(FREE, chunk=1, tokens_per_batch=1)).generate(PROMPTS)
    assert found[:1] == make(model, FREE).generate(PROMPTS[:1])
    assert found != make(model, dataclasses.replace(FREE, seed=1)).generate(PROMPTS)
    same = make(model, FREE).generate(["ab"] * 3)
    assert len(set(same)) == 3, "other places draw other texts"


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_cache_that_grows_changes_no_text(model, monkeypatch, beam_size):
    """Sampled in chunks, and searched; rooms are looked at when a function is traced."""
    texts = []
    for room in (2, 100):
        beam: Any = generator_module._beam
        beam.clear_cache()
        monkeypatch.setattr(growth, "ROOM", room)
        texts.append(make(model, dataclasses.replace(GREEDY, beam_size=beam_size)).generate(PROMPTS))
    assert texts[0] == texts[1]


def test_a_stream_is_the_text_in_pieces(model):
    for prompt in PROMPTS:
        pieces = list(make(model, FREE).stream(prompt))
        assert "".join(pieces) == make(model, FREE).generate([prompt])[0]
        assert len(pieces) == 4  # the first token, then five, five and one


def test_a_stop_string_ends_the_text_and_is_left_out(model):
    (text,) = make(model, FREE).generate(["ab"])
    stop = text[4:6]
    found = make(model, dataclasses.replace(FREE, stop=(stop, "never"))).generate(["ab"])
    assert found == [text[: text.index(stop)]]


def test_beam_search_ends_at_a_stop_string_and_a_stream_of_it_comes_at_once(model):
    search = dataclasses.replace(FREE, beam_size=2)
    (text,) = make(model, search).generate(["ab"])
    stop = text[2:4]
    assert make(model, dataclasses.replace(search, stop=(stop,))).generate(["ab"]) == [text[: text.index(stop)]]
    assert list(make(model, search).stream("ab")) == [text]


def test_a_call_may_change_how_texts_are_continued(model):
    generator = make(model, FREE)
    found = generator.generate(["ab"], max_new_tokens=3, temperature=0.0)
    greedy = dataclasses.replace(FREE, max_new_tokens=3, sampling=Sampling(temperature=0.0))
    assert found == make(model, greedy).generate(["ab"]) and generator.generation == FREE
    assert "".join(generator.stream("ab", max_new_tokens=3, temperature=0.0)) == found[0]
    for wrong in ({"temprature": 1.0}, {"temperature": -1.0}):
        with pytest.raises(ValueError, match="temprature|temperature"):
            generator.generate(["ab"], **wrong)


def test_repeated_tokens_are_remembered_when_the_context_is_full(model, monkeypatch):
    tokenizer = Bytes().train([])
    monkeypatch.setattr(tokenizer, "decode", lambda ids: " ".join(map(str, ids)))
    penalty = Sampling(temperature=0.0, repetition_penalty=1e6)
    generation = dataclasses.replace(FREE, max_new_tokens=30, sampling=penalty)
    (text,) = TextGenerator(model, tokenizer, generation, max_length=12).generate(["ab"])
    ids = text.split()
    assert len(ids) == len(set(ids)) == 30


def test_a_text_goes_on_when_the_context_is_full():
    model = llama(**SIZE).build(0)
    long = make(model, dataclasses.replace(GREEDY, max_new_tokens=30), max_length=16)
    ids = [TOKENIZER.bos_id, *TOKENIZER.encode("ab")]
    context, written = ids, []
    while len(written) < 30:
        written.append(next_token(model, context))
        context = [*context, written[-1]]
        if len(context) > 16:
            context = context[-8:]
    assert TOKENIZER.eos_id not in written
    assert long.generate(["ab"]) == [TOKENIZER.decode(written)]


def test_no_turn_draws_again_what_one_before_has_drawn(monkeypatch):
    drawn, start = [], generator_module._start

    def record(model, tokens, lengths, row_ids, *arguments, **settings):
        drawn.append(row_ids[lengths > 0].tolist())
        return start(model, tokens, lengths, row_ids, *arguments, **settings)

    monkeypatch.setattr(generator_module, "_start", record)
    generation = dataclasses.replace(FREE, max_new_tokens=30, chunk=16)
    make(llama(**SIZE).build(0), generation, max_length=16).generate(["ab", "cd"])
    numbers = [number for turn in drawn for number in turn]
    assert len(drawn) >= 3 and len(set(numbers)) == len(numbers)


def test_beam_search_finds_what_is_at_least_as_probable_as_greedy_search(model):
    generation = dataclasses.replace(GREEDY, length_penalty=0.0, max_new_tokens=4)
    searched = make(model, dataclasses.replace(generation, beam_size=260)).generate(PROMPTS)
    plain = make(model, generation).generate(PROMPTS)
    for prompt, best, greedy in zip(PROMPTS, searched, plain, strict=True):
        scores = make(model).score([prompt + best, prompt + greedy])
        assert scores[0] >= scores[1] - 1e-4


def test_a_prompt_longer_than_the_context_is_refused(model):
    with pytest.raises(ValueError, match="line 2 has 21 tokens, more than the 20 of the model"):
        make(model, max_length=20).generate(["short", "x" * 20])
    assert len(make(model, max_length=20).generate(["x" * 19])[0]) > 0


def test_embeddings_are_means_of_the_last_vectors(model):
    found = make(model).embed(["abc", "z"])
    vectors = model.decode(jnp.asarray([[TOKENIZER.bos_id, *TOKENIZER.encode("abc")]])).vectors
    np.testing.assert_allclose(found[0], np.asarray(vectors)[0].mean(axis=0), atol=1e-5)
    assert isinstance(found[1][0], float) and len(found[1]) == 16


@pytest.mark.parametrize(
    "change",
    [{"max_new_tokens": 0}, {"beam_size": 0}, {"chunk": 0}, {"stop": ("",)}, {"sampling": Sampling(temperature=-1.0)}],
)
def test_numbers_that_generate_nothing_are_refused(model, change):
    with pytest.raises(ValueError, match=rf"^generation.*{next(iter(change))}.* must be"):
        make(model).generate(PROMPTS, **change)


def test_rules_hold_when_the_context_is_full_and_in_the_search():
    model = gpt2(**SIZE, max_length=64).build(0)
    for beam_size in (1, 3):
        (found,) = make(model, max_length=8).generate(["xyz"], no_repeat_ngram=1, min_length=6, beam_size=beam_size)
        ids = TOKENIZER.encode(found)
        assert len(ids) >= 4 and not {*ids[:4]} & {*TOKENIZER.encode("xyz")}


def test_the_first_token_that_beams_find_is_the_most_probable(model):
    found = make(model).generate(PROMPTS, beam_size=2, max_new_tokens=1)
    assert found == [greedy_by_hand(model, prompt, 1) for prompt in PROMPTS]


def test_other_tokens_end_a_text_and_are_left_out(model):
    ids = [TOKENIZER.bos_id, *TOKENIZER.encode("ab")]
    written = [ids.append(next_token(model, ids)) or ids[-1] for _ in range(5)]
    ends = (TOKENIZER.piece(written[4]), TOKENIZER.piece(300 - 41))
    (ended,) = make(model).generate(["ab"], end_tokens=ends)
    assert ended == TOKENIZER.decode(written[: written.index(written[4])])
    (searched,) = make(model).generate(["ab"], end_tokens=ends, beam_size=2)
    assert searched and not {*TOKENIZER.encode(searched)} & {*map(TOKENIZER.token_id, ends)}
