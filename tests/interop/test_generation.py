"""Texts that published models write, token by token beside transformers, with the rules that their files ask for."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.decoding.beam import BeamSearch, beam_search
from transformer_jax.decoding.sampling import Sampling, continue_generation, start_generation
from transformer_jax.interop.published import open_published
from transformer_jax.models.decoder import DecoderCache

torch = pytest.importorskip("torch", reason="compares with PyTorch")
transformers = pytest.importorskip("transformers", reason="compares with transformers")

VOCABULARY, ROWS, LENGTH, NEW, END = 23, 4, 6, 28, 2
SIZES = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": END, "init_std": 1.0}
BART = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_layers": 2}
BART |= {
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 40,
    "decoder_start_token_id": 1,
}
WHISPER = {name: size for name, size in BART.items() if name != "max_position_embeddings"}
WHISPER |= {"num_mel_bins": 5, "max_source_positions": 6, "max_target_positions": 40}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "initializer_range": 0.5}
RULES = [
    BeamSearch(beam_size=1),
    BeamSearch(beam_size=3, length_penalty=1.0, length_rule="length", stopping="transformers"),
    BeamSearch(beam_size=3, length_penalty=2.0, length_rule="length", stopping="fairseq"),
    BeamSearch(beam_size=4, length_penalty=0.7, length_rule="length", stopping="tensor2tensor"),
    BeamSearch(beam_size=3, length_penalty=-0.5, length_rule="length", stopping="tensor2tensor"),
    BeamSearch(beam_size=3, length_penalty=0.0, stopping="transformers", min_length=5),
    BeamSearch(beam_size=3, length_penalty=1.0, length_rule="length", stopping="fairseq", no_repeat_ngram=2),
    BeamSearch(beam_size=1, no_repeat_ngram=1, min_length=3),
    BeamSearch(beam_size=2, length_penalty=1.0, length_rule="length", no_repeat_ngram=3, stopping="transformers"),
]
FEW_RULES = [pytest.param(rules, marks=pytest.mark.slow if number % 4 else []) for number, rules in enumerate(RULES)]
STOPPING = {"fairseq": True, "transformers": False, "tensor2tensor": "never"}


def keys(rules: BeamSearch) -> dict[str, Any]:
    """What asks transformers for the same."""
    return {
        "num_beams": rules.beam_size,
        "length_penalty": rules.length_penalty,
        "early_stopping": STOPPING[rules.stopping] if rules.beam_size > 1 else None,
        "min_new_tokens": rules.min_length,
        "no_repeat_ngram_size": rules.no_repeat_ngram,
        "max_new_tokens": NEW,
        "do_sample": False,
        "bad_words_ids": [[0], [1]],
    }


def published(kind, config, seed, directory):
    """A model whose texts end before the limit, where an end costs nothing in transformers: theirs and ours."""
    torch.manual_seed(seed)
    model = getattr(transformers, kind)(getattr(transformers, kind).config_class(**SIZES, **config)).eval()
    with torch.no_grad():
        if kind.startswith("Bart"):
            model.final_logits_bias[0, END] += 4
        else:
            model.get_output_embeddings().weight[END] *= 2
    model.save_pretrained(directory)
    return model, open_published(directory).model()


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    return published("BartForConditionalGeneration", BART, 3, tmp_path_factory.mktemp("bart"))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return published("WhisperForConditionalGeneration", WHISPER, 3, tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return published("GPT2LMHeadModel", GPT2, 5, tmp_path_factory.mktemp("gpt2"))


TOKENS = np.random.default_rng(5).integers(3, VOCABULARY, (ROWS, LENGTH))
LENGTHS = np.array([6, 3, 5, 2])


def texts(generated, *ends):
    """Up to the end token."""
    rows = np.asarray(generated).tolist()
    places = [next((place for place, token in enumerate(row) if token in (END, *ends)), len(row)) for row in rows]
    return [row[: place + 1] for row, place in zip(rows, places, strict=True)]


def check_lengths(expected, rules):
    """Texts of different lengths, or nothing is shown."""
    assert len({*map(len, expected)}) > 1 or rules.min_length > 4
    assert max(map(len, expected)) < NEW


@pytest.mark.parametrize("rules", FEW_RULES, ids=str)
def test_an_encoder_decoder_writes_what_it_writes_in_transformers(rules, bart):
    theirs, ours = bart
    real = np.arange(LENGTH)[None] < LENGTHS[:, None]
    source = np.where(real, TOKENS, 0)
    expected = theirs.generate(torch.tensor(source), attention_mask=torch.tensor(real).long(), **keys(rules))[:, 1:]
    found = beam_search(
        ours.extend,
        DecoderCache.take,
        ours.start_cache(ours.encode(jnp.array(source), source_lengths=jnp.array(LENGTHS)), NEW),
        jnp.full((ROWS, 1), 1),
        **rules.settings(),
        max_new_tokens=jnp.full(ROWS, NEW),
        capacity=NEW,
        end_id=END,
        forbidden=(0, 1),
        constraints=rules.constraints(END),
    )
    assert texts(found.tokens[:, 0]) == texts(expected)
    check_lengths(texts(expected), rules)


@pytest.mark.parametrize("rules", RULES[:4], ids=str)
def test_an_encoder_of_sound_writes_what_it_writes_in_transformers(rules, whisper):
    """By the search that all models of theirs have; what Whisper's own does beside that is in its own tests."""
    theirs, ours = whisper
    features = np.random.default_rng(7).normal(size=(ROWS, 12, 5)).astype(np.float32)
    generate = transformers.GenerationMixin.generate
    start = torch.ones((ROWS, 1), dtype=torch.long)
    inputs = {"input_features": torch.tensor(features.transpose(0, 2, 1)), "decoder_input_ids": start}
    expected = texts(generate(theirs, **inputs, **keys(rules))[:, 1:])
    found = beam_search(
        ours.extend,
        DecoderCache.take,
        ours.start_cache(ours.encode(jnp.array(features)), NEW),
        jnp.full((ROWS, 1), 1),
        **rules.settings(),
        max_new_tokens=jnp.full(ROWS, NEW),
        capacity=NEW,
        end_id=END,
        forbidden=(0, 1),
        constraints=rules.constraints(END),
    )
    assert texts(found.tokens[:, 0]) == expected
    check_lengths(expected, rules)


@pytest.mark.parametrize(
    ("rules", "ends"),
    [*(pytest.param(*few.values, (END,), marks=few.marks) for few in FEW_RULES), (RULES[1], (END, 9))],
    ids=str,
)
def test_a_decoder_writes_what_it_writes_in_transformers(rules, ends, gpt2):
    theirs, ours = gpt2
    real = np.arange(LENGTH)[None] >= LENGTH - LENGTHS[:, None]
    prompts = np.where(real, TOKENS, 0)
    asked = keys(rules) | {"eos_token_id": [*ends]}
    expected = theirs.generate(torch.tensor(prompts), attention_mask=torch.tensor(real).long(), **asked)
    expected = texts(expected[:, LENGTH:], *ends)
    tokens, lengths = jnp.array(prompts), jnp.array(LENGTHS)
    cache = ours.start_cache(ROWS, LENGTH + NEW)
    common = {"max_new_tokens": jnp.full(ROWS, NEW), "capacity": NEW, "end_id": ends, "forbidden": (0, 1)}
    common |= {"constraints": rules.constraints(*ends)}
    check_lengths(expected, rules)
    if rules.beam_size == 1:
        logits, cache = ours.prefill(tokens, lengths, cache)
        options = {"seed": 0, "row_ids": jnp.arange(ROWS), "sampling": Sampling(temperature=0.0), **common}
        state = start_generation(logits, cache, tokens, lengths, **options)
        assert texts(continue_generation(ours.extend, state, NEW).tokens, *ends) == expected
        return
    _, cache = ours.prefill(tokens[:, :-1], lengths - 1, cache)
    before = (tokens, lengths)
    found = beam_search(
        ours.extend, DecoderCache.take, cache, tokens[:, -1:], before=before, cut=True, **rules.settings(), **common
    )
    assert texts(found.tokens[:, 0], *ends) == expected
