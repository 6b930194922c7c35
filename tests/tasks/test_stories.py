"""A published model, stories260K (github.com/karpathy/llama2.c), is imported and writes what its author published."""

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.interop.gguf_files import write_published_gguf
from transformer_jax.runs.importing import import_run

gguf = pytest.importorskip("gguf", reason="writes the model as GGUF")


@pytest.fixture(scope="module")
def directory(shared_data):
    return shared_data / "checkpoints" / "stories260K"


def add_vocabulary(writer, data):
    """Adds the pieces of tok512.bin: after its first four bytes a score, a length and the bytes of each."""
    tokens, scores, place = [], [], 4
    while place < len(data):
        score, size = struct.unpack_from("<fi", data, place)
        place += 8 + size
        scores.append(score)
        tokens.append(data[place - size : place].decode().replace(" ", "\u2581"))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *tokens[3:]])
    writer.add_token_scores(scores)
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)  # stories end where the next begins


def add_model(writer, data):
    """Adds the tensors: rotary rows of a pair are neighbours, as GGUF has them."""
    d, ff, layers, heads, kv_heads, vocab, length = np.frombuffer(data, "<i4", 7).tolist()
    kv, values, place = d // heads * kv_heads, np.frombuffer(data, "<f4", offset=28), 0
    shapes = {"token_embd": (vocab, d), "attn_norm": (layers, d), "attn_q": (layers, d, d), "attn_k": (layers, kv, d)}
    shapes |= {"attn_v": (layers, kv, d), "attn_output": (layers, d, d), "ffn_norm": (layers, d)}
    shapes |= {"ffn_gate": (layers, ff, d), "ffn_down": (layers, d, ff), "ffn_up": (layers, ff, d), "output_norm": (d,)}
    for name, shape in shapes.items():
        array, place = values[place : place + np.prod(shape)].reshape(shape), place + np.prod(shape)
        if shape[0] != layers:
            writer.add_tensor(f"{name}.weight", array)
        else:
            for i, layer in enumerate(array):
                writer.add_tensor(f"blk.{i}.{name}.weight", layer)
    writer.add_block_count(layers)
    writer.add_context_length(length)
    writer.add_embedding_length(d)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)


@pytest.fixture(scope="module")
def run(directory, tmp_path_factory):
    place = tmp_path_factory.mktemp("stories")
    writer = gguf.GGUFWriter(place / "model.gguf", "llama")
    add_vocabulary(writer, (directory / "tok512.bin").read_bytes())
    add_model(writer, (directory / "stories260K.bin").read_bytes())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_published_gguf(place / "model.gguf", place / "published")
    return import_run(place / "published", place / "run")


@pytest.fixture(scope="module")
def generator(run):
    return run.predictor()


def test_logits_are_the_recorded_ones(run, generator, directory):
    reference = json.loads((directory / "reference.json").read_text())
    assert run.experiment.model.num_parameters() == 260_032
    logits = np.asarray(generator.model(jnp.asarray([reference["ids"][:200]])))[0]
    for position, expected in reference["logits"].items():
        np.testing.assert_allclose(logits[int(position)], expected, atol=1e-4)


@pytest.mark.parametrize(("name", "steps"), [("expected.txt", 200), ("expected_long.txt", 256)])
def test_the_greedy_story_is_the_published_one(generator, directory, name, steps):
    (story,) = generator.generate([""], max_new_tokens=steps, temperature=0.0)
    assert story == (directory / name).read_text()


def test_texts_have_the_recorded_tokens(generator, shared_data):
    for line in (shared_data / "tokenizers" / "stories260K-tok512" / "encodings.jsonl").read_text().splitlines():
        recorded = json.loads(line)
        if "<s>" not in recorded["text"]:  # which is text there, and a token here
            assert generator.tokenizer.encode(recorded["text"]) == recorded["ids"]
            assert generator.tokenizer.decode(recorded["ids"]) == recorded["decoded"]
