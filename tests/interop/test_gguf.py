"""A GGUF file beside the model that it was made of."""

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.cli.main import main
from transformer_jax.data.subwords import ByteBPE
from transformer_jax.interop.gguf_files import INSIDE, OUTSIDE, write_published_gguf
from transformer_jax.interop.published import open_published
from transformer_jax.runs.run import Run

gguf = pytest.importorskip("gguf", reason="reads GGUF files")
torch = pytest.importorskip("torch", reason="compares with PyTorch")
transformers = pytest.importorskip("transformers", reason="compares with transformers")

TEXTS = ["the quick brown fox jumps over 42 lazy dogs", "Zwölf Boxkämpfer, jagen Viktor!"] * 3
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
SIZES |= {"num_hidden_layers": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "initializer_range": 0.3}
NAMES = {theirs: ours for ours, theirs in OUTSIDE.items()}
PARTS = {theirs: ours for ours, theirs in INSIDE.items()}


def interleaved(values, heads):
    """Rows as GGUF has them."""
    return values.reshape(heads, 2, values.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def write(path, kind, quantised, **changes):
    """A file of a random model, and the model with the numbers that are left of its own."""
    backend = json.loads(ByteBPE(vocab_size=300).train(TEXTS).content)["model"]
    tokens = sorted(backend["vocab"], key=backend["vocab"].__getitem__)
    name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind]
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokens), **SIZES, **changes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    if kind == "qwen3":
        writer.add_key_length(config.head_dim)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<|endoftext|>" else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in backend["merges"]])
    writer.add_eos_token_id(tokens.index("<|endoftext|>"))
    state = model.state_dict()
    for name, value in state.items():
        array = value.numpy()
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        kept = gguf.GGMLQuantizationType[quantised] if array.ndim > 1 else gguf.GGMLQuantizationType.F32
        _, _, layer, *part = name.split(".") if name.startswith("model.layers") else ("", "", "")
        ours = NAMES.get(name) or f"blk.{layer}.{PARTS['.'.join(part[:-1])]}.{part[-1]}"
        heads = {"q_proj": 4, "k_proj": 2}.get(part[1], 0) if len(part) > 2 and kind == "llama" else 0
        data = gguf.quants.quantize(np.ascontiguousarray(interleaved(array, heads) if heads else array), kept)
        writer.add_tensor(ours, data, raw_dtype=kept)
        left = torch.tensor(gguf.quants.dequantize(gguf.quants.quantize(array, kept), kept)).reshape(value.shape)
        value.copy_(left)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.mark.parametrize(
    ("kind", "quantised", "changes"),
    [
        ("llama", "F32", {"tie_word_embeddings": True}),
        ("llama", "Q8_0", {}),
        ("qwen2", "Q4_0", {"tie_word_embeddings": True}),
        ("qwen3", "F16", {"head_dim": 16}),
    ],
)
def test_a_file_gives_the_logits_of_what_it_holds(kind, quantised, changes, tmp_path):
    model = write(tmp_path / "model.gguf", kind, quantised, **changes)
    write_published_gguf(tmp_path / "model.gguf", tmp_path / "published")
    ours = open_published(tmp_path / "published").model()
    tokens = np.random.default_rng(0).integers(3, 200, (2, 12))
    with torch.no_grad():
        expected = model(torch.tensor(tokens)).logits.numpy()
    found = np.asarray(ours(jnp.array(tokens)))[..., : expected.shape[-1]]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_file_is_imported_with_its_vocabulary(tmp_path, capsys):
    write(tmp_path / "model.gguf", "llama", "Q8_0")
    assert main(["import", str(tmp_path / "model.gguf"), str(tmp_path / "run")]) == 0
    tokenizer: Any = Run.open(tmp_path / "run").tokenizers["text"]
    expected = ByteBPE(vocab_size=300).train(TEXTS)
    for text in (*TEXTS, "naïve 東京"):
        assert tokenizer.encode(text) == expected.encode(text) and tokenizer.decode(tokenizer.encode(text)) == text
    content = (tmp_path / "model.gguf").read_bytes()
    for name, damaged in (("cut", content[: len(content) // 2]), ("rubbish", b"GGUF" + bytes(100)), ("empty", b"")):
        (tmp_path / f"{name}.gguf").write_bytes(damaged)
        assert main(["import", str(tmp_path / f"{name}.gguf"), str(tmp_path / "new")]) == 2
        assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "new").exists()
