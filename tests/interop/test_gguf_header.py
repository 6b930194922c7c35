"""GGUF files that someone wrote by hand to do harm."""

import re
import struct

import numpy as np
import pytest
from gguf_by_hand import ARRAY, F32, TEXT, U8, U32, WIDTH, file_of, llama, text, value

from transformer_jax.interop.gguf_files import write_published_gguf
from transformer_jax.interop.gguf_header import read_gguf
from transformer_jax.interop.tensor_files import read_directory

pytest.importorskip("gguf", reason="reads GGUF files")


def written(tmp_path, keys, tensors, size):
    (tmp_path / "model.gguf").write_bytes(file_of(keys, tensors) + np.ones(size // 4, np.float32).tobytes())
    write_published_gguf(tmp_path / "model.gguf", tmp_path / "published")


def test_a_file_written_by_hand_is_read(tmp_path):
    written(tmp_path, *llama())
    tensors = read_directory(tmp_path / "published")
    assert len(tensors) == 11 and all(np.all(tensor == 1) for tensor in tensors.values())


@pytest.mark.parametrize(
    ("begin", "reason"),
    [
        (value(ARRAY, (U8, []))[:4] + struct.pack("<Q", 2**60), "cut off"),
        (struct.pack("<IQ", ARRAY, 1) * 3000, "type 9"),
        (struct.pack("<IQ", TEXT, 2**60), "cut off"),
        (struct.pack("<IQ", 77, 0), "type 77"),
    ],
)
def test_a_length_that_a_header_states_is_not_believed(begin, reason, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("x") + b"\t\0\0\0" + begin)
    with pytest.raises(ValueError, match=reason):
        read_gguf(tmp_path / "model.gguf")


V = "blk.0.attn_v.weight"


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        (V, {"place": 0}, "begins inside"),
        (V, {"place": 2**64 - 32}, "cut off"),
        (V, {"shape": (2**40, WIDTH)}, "cut off"),
        (V, {"shape": ()}, "cannot have the shape"),
        (V, {"shape": (0, WIDTH)}, "cannot have the shape"),
        (V, {"kind": 24}, "type"),
        (V, {"kind": 26}, "type"),
        (V, {"kind": 999}, "type"),
        ("blk.00.attn_v.weight", {}, "not known here"),
        ("blk.1.attn_v.weight", {}, "not known here"),
        ("blk.².attn_v.weight", {}, "not known here"),
    ],
)
def test_a_tensor_that_takes_the_place_of_another_or_leaves_the_file_is_refused(name, change, reason, tmp_path):
    keys, tensors, size = llama()
    shape, kind, place = tensors[V]
    given = {"shape": shape, "kind": kind, "place": place} | change
    tensors |= {name: (given["shape"], given["kind"], given["place"] if name == V else size)}
    with pytest.raises(ValueError, match=reason):
        written(tmp_path, keys, tensors, 2 * size)


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("llama.attention.head_count", (F32, 2.0)),
        ("llama.attention.head_count_kv", (ARRAY, (U32, [2]))),
        ("llama.attention.head_count_kv", (TEXT, "2")),
        ("llama.attention.head_count_kv", (U32, 3)),
        ("tokenizer.ggml.unknown_token_id", (U32, 2**31)),
        ("tokenizer.ggml.eos_token_id", (ARRAY, (U32, [1]))),
        ("tokenizer.ggml.scores", (ARRAY, (F32, [float("nan")] * 11))),
        ("tokenizer.ggml.scores", (ARRAY, (F32, [0.0] * 10))),
        ("tokenizer.ggml.token_type", (ARRAY, (U32, [3] * 11))),
        ("tokenizer.ggml.token_type", (ARRAY, (U32, [99] * 11))),
    ],
)
def test_a_value_that_is_none_of_its_key_is_refused_before_it_is_used(key, given, tmp_path):
    keys, tensors, size = llama()
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "model.gguf"))):
        written(tmp_path, keys | {key: given}, tensors, size)


@pytest.mark.parametrize("merge", ["zz yy", "a bc", "abc"])
def test_merges_of_what_is_no_token_are_refused(merge, tmp_path):
    keys, tensors, size = llama()
    keys |= {"tokenizer.ggml.model": (TEXT, "gpt2"), "tokenizer.ggml.merges": (ARRAY, (TEXT, [merge]))}
    with pytest.raises(ValueError, match="merges"):
        written(tmp_path, keys | {"tokenizer.ggml.eos_token_id": (U32, 2)}, tensors, size)
