from collections import Counter

import numpy as np
import pytest

from transformer_jax.data.examples import digest, readable


def read(kind, *values):
    skipped = Counter()
    examples = [{"x": value, "more": 1} for value in values]
    return [example["x"] for example in readable(examples, {"x": kind}, skipped, "Translation")], dict(skipped)


def test_values_become_what_a_task_asks_for():
    assert read("text", "a", b"caf\xc3\xa9") == (["a", "café"], {})
    assert read("label", "a", 0, np.int64(7), 2.0, True) == (["a", "0", "7", "2", "true"], {})
    assert read("number", 3, 4.75, np.float32(0.5), " -1e3 ") == ([3, 4.75, 0.5, -1000], {})
    assert read("bytes", b"\x00\xff") == ([b"\x00\xff"], {})
    array = np.zeros((2, 3))
    assert read("array", array)[0][0] is array


def test_what_is_empty_or_undecodable_is_counted():
    assert read("text", "a", " \t\u3000", None, "caf\udce9", b"\xe9") == (["a"], {"empty": 2, "undecodable": 2})
    assert read("label", "", "a") == (["a"], {"empty": 1}) and read("number", " ", 1) == ([1], {"empty": 1})


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("text", 4.75, "is the number 4.75; Translation needs text"),
        ("text", np.zeros(2), "is an array; Translation needs text"),
        ("label", None, "is null; Translation needs the name of a label, text or a whole number"),
        ("label", 0.5, "is the number 0.5; Translation needs the name of a label"),
        ("number", None, "is null; Translation needs a finite number"),
        ("number", "four", "is the text 'four'; Translation needs a finite number"),
        ("number", True, "is the number True; Translation needs a finite number"),
        ("number", float("inf"), "is the number inf; Translation needs a finite number"),
        ("bytes", "a", "is the text 'a'; Translation needs bytes"),
        ("array", [1], "is list; Translation needs an array"),
    ],
)
def test_a_value_of_another_kind_is_named_with_its_place(kind, value, message):
    good = {"text": "a", "label": "a", "number": 1, "bytes": b"a", "array": np.zeros(1)}[kind]
    with pytest.raises(ValueError, match=f"column 'x' of example 2 {message}"):
        read(kind, good, value)


def test_a_hash_of_examples_follows_arrays_and_bytes_and_is_that_of_former_versions_for_text():
    values = [np.zeros(2), np.zeros(2, np.float32), np.zeros((1, 2)), np.ones(2), b"a", b"b", "a", 1, 1.5]
    assert len({digest([{"x": value}]) for value in values}) == len(values)
    assert digest([{"source": "a", "target": "é"}, {"source": "b"}]) == "9a8e923d09b97b1961c79b08"


def test_a_file_is_marked_by_its_size_and_both_its_ends(tmp_path):
    path, marks = tmp_path / "picture.png", []
    for content in (None, b"", b"a", b"b", b"a" * 20_000, b"a" * 19_999 + b"b", b"b" + b"a" * 19_999, b"a" * 20_001):
        if content is not None:
            path.write_bytes(content)
        marks.append(digest([{"image": path}]))
    assert marks[0] == digest([{"image": tmp_path}])
    assert len(set(marks)) == len(marks)
    path.rename(tmp_path / "other.png")
    assert digest([{"image": tmp_path / "other.png"}]) == marks[-1]
