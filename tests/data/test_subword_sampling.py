"""Texts are cut into other tokens in every epoch, always the same ones for the same seed, epoch and example."""

import collections
import itertools
import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from transformer_jax.data.subword_sampling import draw, resample, roomy
from transformer_jax.data.tokenizers import Bytes, SentencePiece

SYLLABLES = [consonant + vowel for consonant in "bdgklmnprst" for vowel in "aeiou"]


def words(random, count):
    return " ".join("".join(random.choices(SYLLABLES, k=random.randint(1, 4))) for _ in range(count))


TEXTS = [words(random.Random(number), 6) for number in range(300)]
AROUND = {"around": (1, 1), "alpha": 0.2}


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def tokenizer(request):
    return SentencePiece(vocab_size=150, model_type=request.param).train(TEXTS)


def batch_of(tokenizer, examples, width):
    rows = [[tokenizer.bos_id, *tokenizer.encode(TEXTS[example]), tokenizer.eos_id] for example in examples]
    tokens = np.zeros((len(rows) + 1, width), np.int32)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
    lengths = np.asarray([*map(len, rows), 0], np.int32)
    return {"example": np.asarray([*examples, -1], np.int32), "text": tokens, "text_length": lengths}


def rows_of(batch):
    pairs = zip(batch["text"], batch["text_length"], strict=True)
    return [tokens[:length].tolist() for tokens, length in pairs]


def test_the_texts_stay_and_their_tokens_depend_on_seed_epoch_and_example_alone(tokenizer):
    batch = batch_of(tokenizer, range(20), 160)
    first = rows_of(resample(batch, "text", tokenizer, seed=3, epoch=1, **AROUND))
    assert sum(new != old for new, old in zip(first, rows_of(batch), strict=True)) > 15
    assert first[-1] == [], "an empty row"
    for text, row in zip(TEXTS, first[:-1], strict=False):
        assert (row[0], row[-1], tokenizer.decode(row)) == (tokenizer.bos_id, tokenizer.eos_id, text)
    elsewhere = batch_of(tokenizer, [19, 7, 3], 200)
    assert rows_of(resample(elsewhere, "text", tokenizer, seed=3, epoch=1, **AROUND))[:-1] == [
        first[19], first[7], first[3]
    ]  # fmt: skip
    for other in ({"seed": 3, "epoch": 2}, {"seed": 4, "epoch": 1}):
        assert rows_of(resample(batch, "text", tokenizer, **other, **AROUND)) != first


def test_without_dropout_the_tokens_are_the_vocabularys_own():
    tokenizer = SentencePiece(vocab_size=150).train(TEXTS)
    for text in (*TEXTS[:50], "bada Ω goki", "goki  ba", "zzz", ""):
        ids = tokenizer.encode(text)
        assert draw(tokenizer, ids, 0.0, [0], longest=999) == ids


@pytest.mark.parametrize("alpha", [0.0, 0.15, 0.6])
def test_merges_are_dropped_as_often_as_in_provilkovs_algorithm(alpha):
    """Provilkov et al. 2020, algorithm 1: of the merges that could be made, each is dropped; the best of the rest."""
    tokenizer, text = SentencePiece(vocab_size=150).train(TEXTS), "badako gidi"
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(tokenizer.content)
    score = {processor.id_to_piece(number): processor.get_score(number) for number in range(processor.vocab_size())}

    def cut(choices):
        pieces = []
        for word in text.split():
            symbols = ["\u2581", *word]
            while True:
                merged = ["".join(pair) for pair in itertools.pairwise(symbols)]
                left = [i for i, piece in enumerate(merged) if piece in score and choices.random() >= alpha]
                if not left:
                    break
                best = max(left, key=lambda i: score[merged[i]])
                symbols[best : best + 2] = [merged[best]]
            pieces += symbols
        return tuple(processor.piece_to_id(pieces))

    choices, ids = random.Random(0), tokenizer.encode(text)
    expected = collections.Counter(cut(choices) for _ in range(4_000))
    found = collections.Counter(tuple(draw(tokenizer, ids, alpha, [n], longest=99)) for n in range(4_000))
    assert len(expected) == 1 if alpha == 0 else len(expected) > 20
    for cuts in {*expected, *found}:
        assert abs(found[cuts] - expected[cuts]) < 0.03 * 4_000
    mean = [sum(len(cuts) * number for cuts, number in counter.items()) / 4_000 for counter in (expected, found)]
    assert abs(mean[0] - mean[1]) < 0.1


def test_cuts_are_drawn_as_often_as_their_probability_says():
    tokenizer, alpha = SentencePiece(vocab_size=150, model_type="unigram").train(TEXTS), 0.2
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(tokenizer.content)
    best = processor.nbest_encode("badako", nbest_size=64)
    weights = np.exp([alpha * sum(map(processor.get_score, ids)) for ids in best])
    drawn = collections.Counter(tuple(draw(tokenizer, best[0], alpha, [n], longest=99)) for n in range(4_000))
    found = [drawn[(*ids,)] / 4_000 for ids in best]
    np.testing.assert_allclose(found, weights / weights.sum(), atol=0.03)
    assert 0.1 < found[0] < 0.9


def test_another_process_draws_the_same():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_subword_sampling as test; print(test.drawn_tokens())"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert output.strip() == str(drawn_tokens())


def drawn_tokens():
    return [
        draw(trained, trained.encode(TEXTS[number]), 0.2, [number], longest=999)
        for trained in (SentencePiece(vocab_size=150, model_type=kind).train(TEXTS) for kind in ("bpe", "unigram"))
        for number in range(20)
    ]


def test_what_does_not_fit_stays_as_it_is(tokenizer):
    width = max(len(row) for row in rows_of(batch_of(tokenizer, range(20), 99)))
    batch = batch_of(tokenizer, range(20), width)
    found = resample(batch, "text", tokenizer, seed=0, epoch=0, **AROUND)
    assert found["text_length"].max() <= width
    longest = int(batch["text_length"].argmax())
    assert tokenizer.decode(rows_of(found)[longest]) == TEXTS[longest]


def test_texts_without_spaces_are_not_remembered():
    letters = [chr(0x4E00 + number) for number in range(200)]
    texts = ["".join(random.Random(number).choices(letters, k=200)) for number in range(200)]
    tokenizer = SentencePiece(vocab_size=400).train(texts)
    draw(tokenizer, tokenizer.encode(texts[0]), 0.1, [0], longest=999)
    tracemalloc.start()
    for number, text in enumerate(texts[1:9]):
        drawn = draw(tokenizer, tokenizer.encode(text), 0.1, [number], longest=999)
        assert tokenizer.decode(drawn) == text
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 2**20


def test_unknown_tokens_stay_unknown(tokenizer):
    ids = [2, *tokenizer.encode("bada Ω goki"), 3]
    batch = {"example": np.asarray([0]), "text": np.asarray([[*ids, *[0] * 40]], np.int32)}
    batch["text_length"] = np.asarray([len(ids)], np.int32)
    (found,) = rows_of(resample(batch, "text", tokenizer, seed=0, epoch=0, **AROUND))
    assert tokenizer.decode(found) == tokenizer.decode(ids) and found.count(tokenizer.unk_id) == 1


def test_a_vocabulary_with_one_way_to_cut_a_text_is_refused():
    for config in (Bytes(), SentencePiece(vocab_size=30, model_type="char")):
        with pytest.raises(ValueError, match="subword_sampling needs a SentencePiece vocabulary of the type bpe"):
            tokenizer = config.train(TEXTS)
            draw(tokenizer, tokenizer.encode("bada"), 0.1, [0], longest=9)


def test_room_is_bounded_by_the_longest_length_and_of_columns_that_are_cut_anew():
    lengths = np.asarray([[3, 3], [10, 10], [12, 12], [20, 20]], np.int32)
    np.testing.assert_array_equal(roomy(lengths, [1.5, 1.0], 16), [[5, 3], [15, 10], [16, 12], [20, 20]])
