"""A GGUF file beside the model that it was made of."""

import io
import json
import re
from functools import partial
from random import Random
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from transformer_jax.cli.main import main
from transformer_jax.data.subwords import ByteBPE
from transformer_jax.data.tokenizer_json import TokenizerJson
from transformer_jax.interop.gguf_files import _of_gemma, write_published_gguf
from transformer_jax.interop.gguf_vocabularies import vocabulary_files
from transformer_jax.interop.published import open_published
from transformer_jax.runs.run import Run

gguf = pytest.importorskip("gguf", reason="reads GGUF files")
torch = pytest.importorskip("torch", reason="compares with PyTorch")
transformers = pytest.importorskip("transformers", reason="compares with transformers")

TEXTS = ["the quick brown fox jumps over 42 lazy dogs", "Zwölf Boxkämpfer, jagen Viktor!"] * 3
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
SIZES |= {"num_hidden_layers": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "initializer_range": 0.3}
SYMBOLS = ["<b>", "\u2581\u2581", "\n\n"]
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""What the tensors are called in llama.cpp (its src/llama-arch.cpp), those of layers behind blk.N."""
NAMES_OF_GEMMA = NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def stored_name(name, kind):
    """The name that llama.cpp has for a tensor."""
    part, leaf = name.removeprefix("model.layers.").rsplit(".", 1)
    layer, _, inner = part.partition(".") if name.startswith("model.layers.") else ("", "", part)
    names = NAMES_OF_GEMMA if kind.startswith("gemma") else NAMES
    return f"{f'blk.{layer}.' if layer else ''}{names[inner]}.{leaf}"


def interleaved(values, heads):
    """Rows as GGUF has them."""
    return values.reshape(heads, 2, values.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def add_byte_level(writer):
    """Adds a vocabulary of byte-level pieces; its size."""
    backend = json.loads(ByteBPE(vocab_size=300).train(TEXTS).content)["model"]
    tokens = sorted(backend["vocab"], key=backend["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<|endoftext|>" else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in backend["merges"]])
    writer.add_eos_token_id(tokens.index("<|endoftext|>"))
    return len(tokens)


def add_pieces(writer, model, prefix):
    """Adds SentencePiece's pieces as llama.cpp's converter does, which makes the unknown token a special one."""
    numbers = range(model.vocab_size())
    tokens = [model.id_to_piece(i) for i in numbers]
    kinds = [6 if model.is_byte(i) else 3 if model.is_control(i) or model.is_unknown(i) else 1 for i in numbers]
    kinds = [4 if token in SYMBOLS else kind for token, kind in zip(tokens, kinds, strict=True)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.replace("\u2581", " ") if token in SYMBOLS else token for token in tokens])
    writer.add_token_types(kinds)
    writer.add_token_scores([model.get_score(i) for i in numbers])
    writer.add_bos_token_id(model.bos_id())
    writer.add_eos_token_id(model.eos_id())
    writer.add_unk_token_id(model.unk_id())
    if not prefix:  # true, where it is not stated
        writer.add_add_space_prefix(prefix)
    return len(tokens)


def write(path, kind, quantised, name="Llama", extra=None, vocabulary=add_byte_level, blocks=None, **changes):
    """A file of a random model with `extra` keys, and the model as the file has it."""
    writer = gguf.GGUFWriter(path, kind)
    config = getattr(transformers, f"{name}Config")(vocab_size=vocabulary(writer), **SIZES | changes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config).eval()
    writer.add_block_count(config.num_hidden_layers if blocks is None else blocks)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in (extra or {}).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(f"{kind}.{key}", value)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = (value + 0.1 * torch.randn_like(value)).numpy()  # norms are all alike before
        kept = gguf.GGMLQuantizationType[quantised] if array.ndim > 1 else gguf.GGMLQuantizationType.F32
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2], 0) if kind == "llama" else 0
        centred = kind.startswith("gemma") and name.endswith("norm.weight")
        stored = interleaved(array, heads) if heads else array + centred
        content = gguf.quants.quantize(np.ascontiguousarray(stored), kept)
        writer.add_tensor(stored_name(name, kind), content, raw_dtype=kept)
        left = torch.tensor(gguf.quants.dequantize(gguf.quants.quantize(array, kept), kept)).reshape(value.shape)
        value.copy_(left)
    if (rotary := config.rope_parameters).get("rope_type") == "llama3":
        plain = rotary["rope_theta"] ** (-np.arange(0, 8, 2) / 8)
        factors = plain / model.model.rotary_emb.inv_freq.numpy()
        writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


HEAD = {"attention.key_length": 16, "attention.value_length": 16}
OF_GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 5, "rms_norm_eps": 1e-5}
CAPPED = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}
LARGEST = {"num_hidden_layers": 46, "query_pre_attn_scalar": 8}
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"rope_theta": 5e5, "original_max_position_embeddings": 8192}
GLOBAL = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
ROTARY = {"full_attention": GLOBAL, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
SCALED = {"rope.freq_base": 1e6, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0}


@pytest.mark.parametrize(
    ("kind", "quantised", "name", "extra", "changes"),
    [
        ("llama", "F32", "Llama", {"rope.freq_base": 1e4}, {"tie_word_embeddings": True}),
        ("llama", "Q8_0", "Llama", {"rope.dimension_count": 8}, {}),
        ("llama", "F16", "Llama", {"rope.freq_base": 5e5}, {"rope_parameters": LLAMA3}),
        ("llama", "F32", "Mistral", {"attention.sliding_window": 5}, {"sliding_window": 5}),
        ("qwen2", "Q4_0", "Qwen2", {}, {"tie_word_embeddings": True}),
        ("qwen3", "F16", "Qwen3", HEAD, {"head_dim": 16}),
        ("gemma2", "F32", "Gemma2", {**HEAD, "attention.sliding_window": 5, **CAPPED}, OF_GEMMA | CAPPED | LARGEST),
        (
            "gemma3",
            "Q8_0",
            "Gemma3Text",
            {**HEAD, "attention.sliding_window": 5, **SCALED},
            {**OF_GEMMA, "rope_parameters": ROTARY, "num_hidden_layers": 7},
        ),
    ],
)
def test_a_file_gives_the_logits_of_what_it_holds(kind, quantised, name, extra, changes, tmp_path):
    model = write(tmp_path / "model.gguf", kind, quantised, name, extra, **changes)
    write_published_gguf(tmp_path / "model.gguf", tmp_path / "published")
    ours = open_published(tmp_path / "published").model()
    tokens = np.random.default_rng(0).integers(3, 200, (2, 12))
    with torch.no_grad():
        expected = model(torch.tensor(tokens)).logits.numpy()
    found = np.asarray(ours(jnp.array(tokens)))[..., : expected.shape[-1]]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("kind", "extra", "rotary", "name"),
    [
        ("qwen2", {"attention.sliding_window": 5}, None, "attention.sliding_window"),
        ("llama", {"rope.dimension_count": 4}, None, "rope.dimension_count 4"),
        ("llama", {"rope.scaling.type": "yarn"}, None, "yarn"),
        ("llama", {"rope.freq_base": 5e5}, LLAMA3 | {"low_freq_factor": 2.0}, "rope_freqs"),
        ("gemma3", {"final_logit_softcapping": 5.0}, None, "final_logit_softcapping"),
        ("phi3", {}, None, "phi3"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_its_name(kind, extra, rotary, name, tmp_path):
    write(tmp_path / "model.gguf", kind, "F32", extra=extra, rope_parameters=rotary)
    with pytest.raises(ValueError, match=name):
        write_published_gguf(tmp_path / "model.gguf", tmp_path / "published")


def test_a_count_of_layers_without_tensors_is_refused_at_once(tmp_path):
    write(tmp_path / "model.gguf", "llama", "F32", blocks=2**32 - 1)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'model.gguf'}: config.json: ") + ".*num_layers"):
        write_published_gguf(tmp_path / "model.gguf", tmp_path / "published")


def test_a_file_is_imported_with_its_vocabulary(tmp_path, capsys):
    write(tmp_path / "model.gguf", "llama", "Q8_0")
    assert main(["import", str(tmp_path / "model.gguf"), str(tmp_path / "run")]) == 0
    tokenizer: Any = Run.open(tmp_path / "run").tokenizers["text"]
    assert [*json.loads((tmp_path / "run" / "published" / "origin.json").read_text())["sha256"]] == ["model.gguf"]
    expected = ByteBPE(vocab_size=300).train(TEXTS)
    for text in (*TEXTS, "naïve 東京"):
        assert tokenizer.encode(text) == expected.encode(text) and tokenizer.decode(tokenizer.encode(text)) == text
    content = (tmp_path / "model.gguf").read_bytes()
    for name, damaged in (("cut", content[: len(content) // 2]), ("rubbish", b"GGUF" + bytes(100)), ("empty", b"")):
        (tmp_path / f"{name}.gguf").write_bytes(damaged)
        assert main(["import", str(tmp_path / f"{name}.gguf"), str(tmp_path / "new")]) == 2
        assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("kind", "layers", "hidden", "heads", "head", "scale"),
    [
        ("gemma2", 42, 3584, 16, 256, 256),
        ("gemma2", 46, 4608, 32, 128, 144),
        ("gemma3", 48, 3840, 16, 256, 256),
        ("gemma3", 62, 5376, 32, 128, 168),
    ],
)
def test_queries_of_gemma_are_scaled_as_published(kind, layers, hidden, heads, head, scale):
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads}
    derived = _of_gemma(kind, sizes, head)
    assert derived["query_pre_attn_scalar"] == scale
    # Of a file that states no window, only Gemma 2 has one all the same.
    assert derived["sliding_window_pattern"] == (2 if kind == "gemma2" else 1)
    assert _of_gemma(kind, {**sizes, "sliding_window": 8}, head)["sliding_window_pattern"] == (
        2 if kind == "gemma2" else 6
    )


@pytest.mark.parametrize(("prefix", "fallback"), [(True, True), (False, True), (False, False)])
def test_sentencepieces_vocabulary_gives_its_ids_and_texts(prefix, fallback, tmp_path):
    content, random = io.BytesIO(), Random(0)
    texts = TEXTS + ["".join(random.choices("abcd ", k=40)) for _ in range(50)]
    settings: dict[str, Any] = {"sentence_iterator": iter(texts), "model_writer": content, "model_type": "bpe"}
    settings |= {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "minloglevel": 2}
    symbols = {"user_defined_symbols": SYMBOLS, "control_symbols": ["<turn>"], "add_dummy_prefix": prefix}
    SentencePieceTrainer.train(vocab_size=350 if fallback else 94, byte_fallback=fallback, **symbols, **settings)
    theirs: Any = SentencePieceProcessor(model_proto=content.getvalue())
    write(tmp_path / "model.gguf", "llama", "F32", vocabulary=partial(add_pieces, model=theirs, prefix=prefix))
    write_published_gguf(tmp_path / "model.gguf", tmp_path / "published")
    ours: Any = TokenizerJson(str(tmp_path / "published")).train([])
    lines = [*texts, "naïve 東京 हिन्दी", "  two\n\nlines \t", "🦙 <b>bold", " ", "", "<0x41> \u2581"]
    for line in lines:
        ids = theirs.encode(line)
        assert ours.encode(line) == ids and ours.decode(ids) == theirs.decode(ids)
    turn = theirs.piece_to_id("<turn>")
    assert ours.encode("<s>fox<turn>dog") == [1, *theirs.encode("fox"), turn, *theirs.encode("dog")]
    assert (ours.unk_id, ours.bos_id, ours.eos_id, ours.starts) == (0, 1, 2, True)


@pytest.mark.parametrize(
    ("split", "stated", "ids", "starts"),
    [("llama-bpe", None, [2], True), ("llama-bpe", False, [2], False), ("gpt-2", None, [0, 1], False)],
)
def test_llama_3_takes_whole_words_and_begins_texts(split, stated, ids, starts, tmp_path):
    facts = {"model": "gpt2", "pre": split, "tokens": ["a", "b", "ab", "<s>"], "merges": [], "bos_token_id": 3}
    facts |= {"eos_token_id": 3} | ({} if stated is None else {"add_bos_token": stated})
    files = vocabulary_files({f"tokenizer.ggml.{key}": value for key, value in facts.items()})
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    tokenizer = TokenizerJson(str(tmp_path)).train([])
    assert (tokenizer.encode("ab"), tokenizer.starts) == (ids, starts)
