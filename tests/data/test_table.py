import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from transformer_jax.data.columns import Column
from transformer_jax.data.examples import readable
from transformer_jax.data.table import CHUNK, Table, encode_table

END = 3


def encode(texts):
    return [[ord(letter) for letter in text] + [END] for text in texts]


def pairs(*texts):
    return [{"source": text, "target": text[::-1] + "!"} for text in texts]


def tokenize(examples, directory, *, max_length=10, features=("source", "target"), encoder=encode) -> Table:
    skipped = Counter()
    return encode_table(
        readable(examples, dict.fromkeys(features, "text"), skipped, "Translation"),
        lambda rows: {name: encoder([row[name] for row in rows]) for name in features},
        dict.fromkeys(features, Column()),
        max_length=max_length,
        path=directory / "key.arrow",
        skipped=skipped,
    )


def test_what_is_read_is_what_the_encoder_gave(tmp_path):
    examples = pairs("ab", "c", "def")
    split = tokenize(examples, tmp_path)
    assert len(split) == 3 and tuple(split.columns) == ("source", "target")
    for index, example in enumerate(examples):
        for feature, text in example.items():
            assert split.column(feature)[index].tolist() == encode([text])[0]
    assert split.lengths.tolist() == [[3, 4], [2, 3], [4, 5]] and split.lengths.dtype == np.int32


def test_a_language_model_has_one_feature(tmp_path):
    split = tokenize([{"text": "a"}, {"text": "é€😀"}], tmp_path, features=("text",))
    assert split.column("text")[1].tolist() == [ord("é"), ord("€"), ord("😀"), END]
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
    found = [row.tolist() for row in split.column("text")]
    assert found == [encode([str(number)])[0] for number in taken]


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
        ([], "no example is left"),
        (["", "x" * 50], "no example is left: skipped 2 (1 empty, 1 longer than 10 tokens)"),
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
from transformer_jax.data.columns import Column
from transformer_jax.data.table import encode_table

def killed():
    yield from [{{"text": "a"}}] * {2 * CHUNK}
    os._exit(9)

encode = lambda rows: {{"text": [[1]] * len(rows)}}
path = Path({str(tmp_path)!r}) / "key.arrow"
encode_table(killed(), encode, {{"text": Column()}}, max_length=9, path=path, skipped={{}})
"""
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 9
    assert list(tmp_path.iterdir()), "the writer was to be killed in the middle"
    assert len(tokenize([{"text": "ab"}], tmp_path, features=("text",))) == 1


def test_two_writers_at_once_end_with_one_cache(tmp_path):
    def while_another_writes():
        yield from pairs("ab", "cd")
        assert len(tokenize(pairs("ab", "cd"), tmp_path)) == 2

    split = tokenize(while_another_writes(), tmp_path)
    assert split.column("source")[1].tolist() == encode(["cd"])[0]
    assert [path.name for path in tmp_path.iterdir()] == ["key.arrow"]


@pytest.mark.parametrize("damage", [lambda content: content[:-4], lambda content: b"", lambda content: b"x" * 99])
def test_a_damaged_table_is_refused(tmp_path, damage):
    tokenize(pairs("ab", "cd"), tmp_path)
    file = tmp_path / "key.arrow"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"key.arrow is damaged: .*; delete it to make it again"):
        tokenize(pairs("ab", "cd"), tmp_path)


def test_padding_is_zero_and_minus_one_is_an_empty_row(tmp_path):
    split = tokenize(pairs("ab", "c", "def"), tmp_path)
    batch = split.batch(np.array([2, -1, 1]), [6, 8])
    assert batch["source"].tolist() == [[*b"def", END, 0, 0], [0] * 6, [*b"c", END, 0, 0, 0, 0]]
    assert batch["source_length"].tolist() == [4, 0, 2] and batch["target"].shape == (3, 8)
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}


def table_of(directory, columns, examples, **fields):
    def encode(rows):
        return {name: [row[name] for row in rows] for name in columns}

    fields = {"max_length": None, "path": directory / "t.arrow", "skipped": Counter(), **fields}
    return encode_table(examples, encode, columns, **fields)


def test_columns_of_every_kind_come_back_with_their_types_and_shapes(tmp_path):
    random = np.random.default_rng(0)
    columns = {
        "frames": Column("float32", (3,)),
        "wave": Column("float64"),
        "image": Column("uint8", (2, 2), varying=False, tokens=4),
        "label": Column(varying=False),
        "target": Column("float32", varying=False),
    }
    examples = [
        {
            "frames": random.normal(size=(size, 3)).astype(np.float32),
            "wave": random.normal(size=2 * size).tolist(),
            "image": random.integers(0, 256, (2, 2), dtype=np.uint8),
            "label": size,
            "target": size / 4,
        }
        for size in random.integers(1, 9, CHUNK + 5).tolist()
    ]
    table = table_of(tmp_path, columns, examples)
    for index in (0, 7, CHUNK - 1, CHUNK, CHUNK + 4):
        for name, column in columns.items():
            array = table.column(name)[index]
            assert array.dtype == column.dtype
            np.testing.assert_array_equal(array, np.asarray(examples[index][name]).reshape(array.shape))
    sizes = [example["label"] for example in examples]
    assert table.lengths.tolist() == [[size, 2 * size, 4, 1, 1] for size in sizes]
    batch = table.batch(np.array([3, -1]), [8, 16, 4, 1, 1])
    assert {name: (array.dtype.name, array.shape) for name, array in batch.items()} == {
        "frames": ("float32", (2, 8, 3)),
        "frames_length": ("int32", (2,)),
        "wave": ("float64", (2, 16)),
        "wave_length": ("int32", (2,)),
        "image": ("uint8", (2, 2, 2)),
        "label": ("int32", (2,)),
        "target": ("float32", (2,)),
    }
    np.testing.assert_array_equal(batch["frames"][0, : sizes[3]], examples[3]["frames"])
    assert not batch["frames"][0, sizes[3] :].any() and not any(array[1].any() for array in batch.values())
    frames, wave = sum(sizes), 2 * sum(sizes)
    assert table.report("train") == f"train: {CHUNK + 5:,} examples, {frames:,} frames and {wave:,} wave"


def test_bytes_are_kept_as_they_are_and_decoded_for_every_batch(tmp_path):
    def decode(content, draws):
        return np.frombuffer(content[1:], np.uint8).reshape(2, 2) / 255

    column = Column("float32", (2, 2), varying=False, tokens=16, decode=decode)
    contents = [bytes([9, number, 0, 255, 0]) for number in range(3)]
    table = table_of(tmp_path, {"image": column}, [{"image": content} for content in contents])
    assert table.lengths.tolist() == [[16]] * 3
    batch = table.batch(np.array([2, -1]), [16])["image"]
    np.testing.assert_allclose(batch, [[[2 / 255, 0], [1, 0]], np.zeros((2, 2))])
    with pytest.raises(ValueError, match="lengths must be known without decoding"):
        Column("float32", (3,), decode=decode)


@pytest.mark.parametrize(
    ("column", "value"),
    [(Column(), [1.5]), (Column(varying=False), [1]), (Column("float32", (3,)), np.zeros((2, 4))), (Column(), ["a"])],
)
def test_what_a_column_cannot_hold_is_refused(tmp_path, column, value):
    with pytest.raises(ValueError, match="what encode gives for 'x' is no Column"):
        table_of(tmp_path, {"x": column}, [{"x": value}])
    assert not list(tmp_path.iterdir())


def test_encode_gives_all_columns_and_no_others(tmp_path):
    with pytest.raises(ValueError, match="the task's columns are a, b, but encode gives b"):
        encode_table(
            [{}],
            lambda rows: {"b": [[1]]},
            {"a": Column(), "b": Column()},
            max_length=None,
            path=tmp_path / "t",
            skipped=Counter(),
        )
