import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from transformer_jax.data.dataset import CHUNK, TokenizedSplit, tokenize_split

END = 3


def encode(texts):
    return [[ord(letter) for letter in text] + [END] for text in texts]


def pairs(*texts):
    return [{"source": text, "target": text[::-1] + "!"} for text in texts]


def tokenize(examples, directory, *, max_length=10, features=("source", "target"), encoder=encode) -> TokenizedSplit:
    def columns(rows):
        return {name: encoder([row[name] for row in rows]) for name in features}

    return tokenize_split(examples, features, columns, max_length=max_length, directory=directory, key="key")


def test_what_is_read_is_what_the_encoder_gave(tmp_path):
    examples = pairs("ab", "c", "def")
    split = tokenize(examples, tmp_path)
    assert len(split) == 3 and split.columns == ("source", "target")
    for index, example in enumerate(examples):
        found = split[index]
        for feature, text in example.items():
            assert found[feature].tolist() == encode([text])[0]
    assert split.lengths.tolist() == [[3, 4], [2, 3], [4, 5]] and split.lengths.dtype == np.int32


def test_a_language_model_has_one_feature(tmp_path):
    split = tokenize([{"text": "a"}, {"text": "é€😀"}], tmp_path, features=("text",))
    assert split[1]["text"].tolist() == [ord("é"), ord("€"), ord("😀"), END]
    assert split.report("train") == "train: 2 examples, 6 text tokens"


def test_examples_stream_through_in_chunks(tmp_path):
    taken, chunks = [], []

    def stream():
        for number in range(2 * CHUNK + 500):
            taken.append(number)
            yield {"text": str(number)}

    def counting(texts):
        chunks.append(len(texts))
        assert len(taken) == sum(chunks), "the text was read further ahead than a chunk"
        return encode(texts)

    split = tokenize(stream(), tmp_path, features=("text",), encoder=counting)
    assert chunks == [CHUNK, CHUNK, 500]
    assert all(split[number]["text"].tolist() == encode([str(number)])[0] for number in taken)


def test_an_existing_cache_is_opened_without_reading_the_text(tmp_path):
    def unread():
        raise AssertionError("the text was read again")
        yield

    first = tokenize(pairs("ab", "", "x" * 10), tmp_path)
    second = tokenize(unread(), tmp_path)
    assert second.report("train") == first.report("train")
    assert second.skipped == first.skipped == {"empty": 1, "longer than 10 tokens": 1}
    np.testing.assert_array_equal(second.lengths, first.lengths)


def test_skips_are_counted_by_reason(tmp_path):
    examples = [
        *pairs("ab", "x" * 8, "x" * 9),  # with "!" and the end token, 10 and 11 tokens
        {"source": "", "target": "a"},
        {"source": "a", "target": " \t\u3000"},
        {"source": "a", "target": "caf\udce9"},
    ]
    split = tokenize(examples, tmp_path)
    assert len(split) == 2
    assert split.skipped == {"longer than 10 tokens": 1, "empty": 2, "undecodable": 1}
    assert split.report("train") == (
        "train: 2 examples, 12 source and 14 target tokens; skipped 4 (2 empty, 1 undecodable, 1 longer than 10 tokens)"
    )


def test_a_text_without_any_ids_is_empty(tmp_path):
    def encode_visible(texts):
        return [[ord(letter) for letter in text if letter != "\u200b"] for text in texts]

    examples = [{"text": "a"}, {"text": "\u200b"}]
    split = tokenize(examples, tmp_path, features=("text",), encoder=encode_visible)
    assert len(split) == 1 and split.skipped == {"empty": 1}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "there are no examples to learn from"),
        (["", "x" * 50], "there are no examples to learn from: skipped 2 (1 empty, 1 longer than 10 tokens)"),
    ],
)
def test_nothing_left_is_an_error_that_says_why(tmp_path, texts, message):
    with pytest.raises(ValueError) as error:
        tokenize([{"text": text} for text in texts], tmp_path, features=("text",))
    assert str(error.value) == message
    assert not list(tmp_path.iterdir())


def test_a_missing_feature_is_named_beside_those_present(tmp_path):
    with pytest.raises(ValueError, match="an example has no 'target', only source, reference"):
        tokenize([{"source": "a", "reference": "b"}], tmp_path)


def test_an_interrupted_writer_leaves_nothing_behind(tmp_path):
    def interrupted():
        yield from pairs(*["ab"] * (CHUNK + 1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(interrupted(), tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(tokenize(pairs("ab"), tmp_path)) == 1


def test_what_a_killed_writer_left_is_not_taken_for_complete(tmp_path):
    program = f"""
import os
from pathlib import Path
from transformer_jax.data.dataset import tokenize_split

def killed():
    yield from [{{"text": "a"}}] * {2 * CHUNK}
    os._exit(9)

encode = lambda rows: {{"text": [[1]] * len(rows)}}
tokenize_split(killed(), ["text"], encode, max_length=9, directory=Path({str(tmp_path)!r}), key="key")
"""
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 9
    assert list(tmp_path.iterdir()), "the writer was to be killed in the middle"
    assert len(tokenize([{"text": "ab"}], tmp_path, features=("text",))) == 1


def test_an_empty_directory_is_not_taken_for_complete(tmp_path):
    (tmp_path / "key").mkdir()
    assert len(tokenize(pairs("ab"), tmp_path)) == 1


def test_two_writers_at_once_end_with_one_cache(tmp_path):
    def while_another_writes():
        yield from pairs("ab", "cd")
        assert len(tokenize(pairs("ab", "cd"), tmp_path)) == 2

    split = tokenize(while_another_writes(), tmp_path)
    assert split[1]["source"].tolist() == encode(["cd"])[0]
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("name", ["lengths", "source.ids"])
def test_a_truncated_cache_is_refused(tmp_path, name):
    tokenize(pairs("ab", "cd"), tmp_path)
    file = tmp_path / "key" / name
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match=rf"{name} has \d+ bytes, not \d+; delete .*key to make it again"):
        tokenize(pairs("ab", "cd"), tmp_path)


def test_padding_is_zero_and_minus_one_is_an_empty_row(tmp_path):
    split = tokenize(pairs("ab", "c", "def"), tmp_path)
    ids, lengths = split.padded("source", np.array([2, -1, 1]), 6)
    assert ids.tolist() == [[*b"def", END, 0, 0], [0] * 6, [*b"c", END, 0, 0, 0, 0]]
    assert lengths.tolist() == [4, 0, 2]
    assert ids.dtype == lengths.dtype == np.int32
