"""A published directory is read without trust: what is wrong with it is named, in one line."""

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import transformer_jax
from transformer_jax.data.subwords import WordPiece
from transformer_jax.data.tokenizer_json import TokenizerJson
from transformer_jax.interop import published as published_module
from transformer_jax.interop import tensor_files
from transformer_jax.interop.published import open_published, write_published
from transformer_jax.interop.tensor_files import INDEX, SINGLE, Tensor, read_directory, read_tensors
from transformer_jax.models.decoder_only import gpt2, llama
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.nn.positions import Alibi
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.training.step import abstract_model, model_shardings


@pytest.fixture
def copied(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "model")


def file_of(path, header, data=b""):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + data)
    return path


def tensor(start, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "size", "words"),
    [
        ({"a": tensor(0, 8)}, 7, "cut off inside of a"),
        ({"a": tensor(0, 8)}, 9, "1 bytes behind its last tensor"),
        ({"a": tensor(0, 8), "b": tensor(4, 12)}, 12, "b does not begin where"),
        ({"a": tensor(4, 12)}, 12, "a does not begin where"),
        ({"a": tensor(-8, 0)}, 8, "a of shape"),
        ({"a": tensor(0, 8, (2**40, 2**40))}, 8, "a of shape"),
        ({"a": tensor(0, 8, (-2,))}, 8, "a of shape"),
        ({"a": tensor(0, 8, (True, 2))}, 8, "a of shape"),
        ({"a": tensor(0, 8, (2,), "F4")}, 8, "type 'F4'"),
        ({"a": {"dtype": "F32"}}, 8, "lacks a dtype, shape or data_offsets"),
        ({"a": 3}, 8, "lacks a dtype, shape or data_offsets"),
        (b'{"a": 1, "a": 2}', 0, "names a twice"),
        (b"[1]", 0, "no JSON object"),
        (b"{" + b'"a": [' * 100_000, 0, "damaged"),
        (b"\xff\xfe", 0, "damaged"),
    ],
)
def test_a_hostile_header_is_refused(header, size, words, tmp_path):
    path = file_of(tmp_path / "one.safetensors", header, bytes(size))
    with pytest.raises(ValueError, match=words):
        read_tensors(path)


@pytest.mark.parametrize("content", [b"", b"1234", (2**63).to_bytes(8, "little"), (200_000_000).to_bytes(8, "little")])
def test_a_header_that_is_longer_than_its_file_is_refused(content, tmp_path):
    path = tmp_path / "one.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cut off or no safetensors file"):
        read_tensors(path)


def test_mutated_files_end_in_one_error_or_are_read(copied):
    path, generator = copied / SINGLE, random.Random(0)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(generator.choice([1, 1, 3, 20])):
            content[generator.randrange(header)] = generator.randrange(256)
        path.write_bytes(content[: generator.choice([len(content), generator.randrange(len(content))])])
        try:
            open_published(copied)
        except (ValueError, FileNotFoundError) as error:
            assert str(error)
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "..", "a\\b", "", 3, "a/b.safetensors"])
def test_an_index_cannot_lead_out_of_its_directory(file, copied):
    (copied / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": file}}))
    with pytest.raises(ValueError, match="no file of its directory"):
        read_directory(copied)


def change(copied, **keys):
    values = json.loads((copied / "config.json").read_text()) | keys
    (copied / "config.json").write_text(json.dumps(values))


def rewrite(copied, edit):
    tensors = {name: np.array(value) for name, value in read_directory(copied).items()}
    edit(tensors)
    made = {name: Tensor(value.dtype, value.shape, lambda value=value: value) for name, value in tensors.items()}
    tensor_files.write_directory(copied, made)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model_type": "lama"}, "the nearest, llama, knows all its keys"),
        ({"model_type": "phi3", "embd_dropout_rate": 0.3}, "the nearest, llama, does not know embd_dropout_rate"),
        ({"attention_multiplier": 2.0}, "attention_multiplier"),
        ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu'"),
        ({"pretraining_tp": 4}, "pretraining_tp 4 cannot be expressed"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2}}, "rope_type 'longrope'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2, "twist": 1}}, "twist"),
        ({"rope_scaling": {"rope_type": "linear", "factor": float("nan")}}, "finite"),
        ({"hidden_size": "16"}, "hidden_size is a whole number"),
        ({"num_hidden_layers": 9_999}, "layers, but there are no tensors for so many"),
        ({"num_hidden_layers": 10**12}, "num_layers must be at least 1"),
        ({"hidden_size": 10**12}, "d_model must be"),
        ({"num_attention_heads": 3}, "num_heads 3"),
        ({"model_type": "mistral", "architectures": None, "sliding_window": 2**33}, "window must be"),
        ({"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 10**15}}, "original_length must be"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 1e300}}, "factor must be"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1e300}}, "attention_factor must"),
        ({"rope_theta": 1.0}, "base must be above 1"),
        ({"partial_rotary_factor": 1e9}, "fraction must be"),
        ({"rope_parameters": {"": "x", "full_attention": "x"}}, "rope_parameters"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architecture 'LlamaForSequenceClassification'"),
        ({"vocab_size": 46}, "misshapes model.embed_tokens.weight"),
        ({"num_hidden_layers": 3}, "lacks model.layers.2"),
        ({"num_hidden_layers": 1}, "has beside what is known model.layers.1"),
    ],
)
def test_a_configuration_that_cannot_be_expressed_is_refused_by_name(keys, words, copied):
    change(copied, **keys)
    with pytest.raises(ValueError, match=words):
        open_published(copied)


def test_a_key_can_be_passed_over(copied):
    change(copied, my_notes="of no effect")
    assert open_published(copied, ignore=["my_notes"]).config.num_layers == 2


def test_missing_and_unknown_tensors_are_named_together(copied):
    def edit(tensors):
        del tensors["model.norm.weight"]
        tensors["model.layers.0.extra"] = np.zeros(3, np.float32)

    rewrite(copied, edit)
    with pytest.raises(ValueError, match=r"lacks model.norm.weight and has beside what is known model.layers.0.extra"):
        open_published(copied)


def test_a_tied_tensor_that_differs_is_refused(copied):
    change(copied, tie_word_embeddings=True)
    with pytest.raises(ValueError, match="lm_head.weight that differs from model.embed_tokens.weight"):
        open_published(copied)


def test_a_pickle_is_refused_with_the_way_to_convert_it(copied):
    (copied / SINGLE).rename(copied / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"a pickle, .*save_pretrained"):
        open_published(copied)


def test_a_directory_without_a_model_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a run directory"):
        transformer_jax.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors"):
        transformer_jax.load(tmp_path)


def test_shards_are_read_as_one(copied, monkeypatch):
    whole = {name: np.array(value) for name, value in read_directory(copied).items()}
    (copied / SINGLE).unlink()
    monkeypatch.setattr(tensor_files, "LARGEST_SHARD", 4_000)
    tensor_files.write_directory(
        copied, {name: Tensor(value.dtype, value.shape, lambda value=value: value) for name, value in whole.items()}
    )
    assert len(list(copied.glob("model-*.safetensors"))) > 2
    again = read_directory(copied)
    assert again.keys() == whole.keys() and all(np.array_equal(again[name], whole[name]) for name in whole)
    next(copied.glob("model-00002*")).unlink()
    with pytest.raises(FileNotFoundError, match="lacks model-00002"):
        open_published(copied)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_goes_back_bit_by_bit(dtype, copied, tmp_path):
    published = open_published(copied)
    half = published.parameters(dtype=dtype)
    write_published(tmp_path / "half", published.config, half)
    first = open_published(tmp_path / "half")
    assert all(value.dtype == np.dtype(dtype) for value in first.parameters(dtype=None).values())
    write_published(tmp_path / "again", first.config, first.parameters(), dtype=dtype)
    assert (tmp_path / "half" / SINGLE).read_bytes() == (tmp_path / "again" / SINGLE).read_bytes()


def test_a_model_on_a_mesh_has_the_same_parameters(copied):
    published = open_published(copied)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    sharded = published.parameters(model_shardings(abstract_model(published.config), mesh))
    assert any(not value.sharding.is_fully_replicated for value in sharded.values())
    for name, value in published.parameters().items():
        np.testing.assert_array_equal(np.asarray(sharded[name]), np.asarray(value))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (llama(d_model=16, num_heads=4, vocab_size=9, num_layers=1, positions=Alibi()), "Alibi"),
        (gpt2(d_model=16, num_heads=4, vocab_size=9, num_layers=1, soft_cap=3.0), "model.soft_cap 3.0"),
    ],
)
def test_a_model_that_no_family_has_is_not_written(config, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        write_published(tmp_path / "new", config, named_parameters(config.build(0)))
    assert not (tmp_path / "new").exists()


def test_a_run_of_ours_finds_its_family():
    assert published_module.family_for(gpt2(vocab_size=9))[0].name == "gpt2"
    assert published_module.family_for(llama(vocab_size=9))[0].name == "llama"
    assert published_module.family_for(llama(vocab_size=9, pattern=("local",), window=3))[0].name == "mistral"


@pytest.mark.parametrize(
    ("change_file", "words"),
    [
        (lambda file: file["model"]["vocab"].update(huge=2**32 - 6), "has an id 4294967290"),
        (lambda file: file["added_tokens"].append({"id": -1}), "has an id -1"),
        (
            lambda file: file.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            "cannot be used",
        ),
        (lambda file: file.update(model=[]), "cannot be used"),
        (
            lambda file: file.update(
                normalizer={
                    "type": "Sequence",
                    "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40,
                }
            ),
            "times as long",
        ),
    ],
)
def test_a_tokenizer_that_would_end_the_process_is_refused(change_file, words, tmp_path):
    file = json.loads(WordPiece(vocab_size=40).train(["the quick fox"] * 3).content)
    change_file(file)
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(ValueError, match=words):
        TokenizerJson(path=str(tmp_path)).train([])


def test_a_tokenizer_is_used_without_its_padding_and_its_panics_are_errors(tmp_path):
    file = json.loads(WordPiece(vocab_size=40).train(["the quick fox"] * 3).content)
    file["padding"] = {
        "strategy": {"Fixed": 10**15}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    slow = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
    file["pre_tokenizer"] = slow  # on which the library panics, at a text that is not the first
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    tokenizer = TokenizerJson(path=str(tmp_path)).train([])
    assert tokenizer.encode("the") == tokenizer.encode_with_offsets("the")[0]
    with pytest.raises(ValueError, match="cannot take"):
        tokenizer.encode("x" * 40)


@pytest.mark.slow
def test_a_gigabyte_in_shards_is_read_onto_eight_devices_with_little_memory_beside():
    """At most the largest tensor and a tenth."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "loading.py"
    done = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True)
    beside, largest = map(int, re.findall(r"(\d+) MB", done.stdout.splitlines()[-1]))
    assert largest > 100 and beside <= 1.1 * largest
