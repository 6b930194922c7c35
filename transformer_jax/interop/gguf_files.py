"""Models that are published as one GGUF file become a directory with config.json, safetensors and tokenizer.json.

The file is read by the package `gguf`, which also dequantises; here are names and forms
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Tensors are written one at a time.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from transformer_jax.interop.published import CONFIG
from transformer_jax.interop.tensor_files import Tensor, write_directory

ARCHITECTURES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
}
"""What `general.architecture` is here: model_type and class."""
OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INSIDE = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""The parts of a layer, blk.N.PART.weight."""
KEYS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
}
NO_EFFECT = ("attention.value_length", "rope.dimension_count", "vocab_size")
"""Keys that repeat what others say."""
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "gpt-2": None,
    "smollm": None,
    "llama-bpe": WORDS.format(r"\p{N}{1,3}"),
    "qwen2": WORDS.format(r"\p{N}"),
}
"""How texts are cut before byte-level pieces, by `tokenizer.ggml.pre`; none: as GPT-2 does."""
CONTROL, ADDED = 3, 4
"""Kinds of tokens in `tokenizer.ggml.token_type`: special ones, and others that were added."""


def write_published_gguf(file: Path, directory: Path) -> None:
    """Writes a directory as it would be published.

    Raises ValueError for a file that is damaged, and for a model or a vocabulary of another kind.
    """
    reader = _reader(file)
    try:
        facts = {name: field.contents() for name, field in reader.fields.items()}
        config, tensors = _config(facts, reader), _tensors(facts, reader)
        tokenizer, settings = _tokenizer(facts)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, UnicodeError) as error:
        raise ValueError(f"{file} is damaged or of another form: {type(error).__name__}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in ((CONFIG, config), ("tokenizer_config.json", settings)):
        (directory / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    tokenizer.save(str(directory / "tokenizer.json"))
    write_directory(directory, tensors)


def _reader(file: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ValueError(f"{file} is read by the package gguf, which the extra gguf installs") from None
    try:
        return GGUFReader(file)
    except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no GGUF file, or damaged: {error}") from error


def _config(facts: Mapping[str, Any], reader: Any) -> dict[str, Any]:
    """What config.json says."""
    kind = facts["general.architecture"]
    if kind not in ARCHITECTURES:
        raise ValueError(f"the architecture {kind!r} is not read from GGUF, only {', '.join(ARCHITECTURES)}")
    model_type, name = ARCHITECTURES[kind]
    own = {key.removeprefix(f"{kind}."): value for key, value in facts.items() if key.startswith(f"{kind}.")}
    if unknown := own.keys() - KEYS.keys() - {*NO_EFFECT}:
        raise ValueError(f"{', '.join(sorted(unknown))} of {kind} is not known here")
    config = {theirs: own[key] for key, theirs in KEYS.items() if key in own}
    names = {tensor.name: [*map(int, reversed(tensor.shape))] for tensor in reader.tensors}
    ids = {f"{role}_token_id": facts.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")}
    return {
        "model_type": model_type,
        "architectures": [name],
        **config,
        "vocab_size": names["token_embd.weight"][0],
        "tie_word_embeddings": "output.weight" not in names,
        "hidden_act": "silu",
        **({} if kind == "qwen2" else {"attention_bias": "blk.0.attn_q.bias" in names}),
        **{key: value for key, value in ids.items() if value is not None},
    }


def _tensors(facts: Mapping[str, Any], reader: Any) -> dict[str, Tensor]:
    """The tensors by the names of a published Llama, dequantised when they are written."""
    kind, tensors = facts["general.architecture"], {}
    heads = {"attn_q": facts[f"{kind}.attention.head_count"]}
    heads["attn_k"] = facts.get(f"{kind}.attention.head_count_kv", heads["attn_q"])
    for tensor in reader.tensors:
        name, halves = OUTSIDE.get(tensor.name), 0
        if name is None:
            if tensor.name == "rope_freqs.weight":
                raise ValueError("rotary frequencies of its own are not read from GGUF")
            block, layer, part, leaf = tensor.name.split(".")
            if block != "blk" or part not in INSIDE or leaf not in ("weight", "bias"):
                raise ValueError(f"the tensor {tensor.name} is not known here")
            name = f"model.layers.{int(layer)}.{INSIDE[part]}.{leaf}"
            halves = heads.get(part, 0) if kind == "llama" else 0
        shape = (*map(int, reversed(tensor.shape)),)
        make = partial(_values, tensor, shape, halves)
        tensors[name] = Tensor(np.dtype(np.float32), shape, make)
    return tensors


def _values(tensor: Any, shape: tuple[int, ...], heads: int) -> np.ndarray:
    """A tensor's numbers; GGUF pairs neighbouring rows of Llama's rotary heads, published files a head's halves."""
    from gguf.quants import dequantize

    values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
    if heads:
        values = values.reshape(heads, shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(shape)
    return values


def _tokenizer(facts: Mapping[str, Any]) -> tuple[Tokenizer, dict[str, Any]]:
    """The vocabulary of byte-level pieces, and the settings beside it."""
    kind, split = facts["tokenizer.ggml.model"], facts.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or split not in SPLITS:
        raise ValueError(
            f"its vocabulary is {kind} with {split}; read are gpt2 with {', '.join(SPLITS)}: "
            "take a model that is published with its tokenizer.json"
        )
    tokens, kinds = facts["tokenizer.ggml.tokens"], facts.get("tokenizer.ggml.token_type", [])
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ", 1)) for merge in facts["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges))
    steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=SPLITS[split] is None)]
    if split == "smollm":
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    elif (pattern := SPLITS[split]) is not None:
        steps.insert(0, pre_tokenizers.Split(Regex(pattern), "isolated"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    for token, of in zip(tokens, kinds, strict=False):
        if of in (CONTROL, ADDED):
            backend.add_tokens([AddedToken(token, special=of == CONTROL, normalized=False)])
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": facts.get("tokenizer.chat_template")}
    roles = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    for role, theirs in roles.items():
        number = facts.get(f"tokenizer.ggml.{theirs}_token_id")
        settings |= {} if number is None else {f"{role}_token": tokens[number]}
    return backend, {key: value for key, value in settings.items() if value is not None}
