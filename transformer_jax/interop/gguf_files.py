"""Models that are published as one GGUF file become a directory with config.json, safetensors and a tokenizer.

Here are names and forms; the package `gguf` dequantises. Tensors are written one at a time.
"""

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from transformer_jax.interop.families import FAMILIES
from transformer_jax.interop.gguf_header import StoredTensor, read_gguf
from transformer_jax.interop.gguf_vocabularies import vocabulary_files
from transformer_jax.interop.published import CONFIG, open_published
from transformer_jax.interop.rotary import written_rotary
from transformer_jax.interop.rules import NUMBER, pattern_of
from transformer_jax.interop.tensor_files import Tensor, write_directory
from transformer_jax.nn.positions import Rotary
from transformer_jax.nn.rotary_scaling import Llama3, rotary_frequencies

MODEL_TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2", "gemma3": "gemma3_text"}
"""The model_type of what `general.architecture` names; a "llama" with a window is Mistral's."""
GEMMA = {"gemma2": (2, 46), "gemma3": (6, 62)}
"""The period of its layers, of which the last sees all, and the layers of its model of 27 billion parameters."""
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
COUNTS = re.compile(r"count|length")
WINDOW = {"attention.sliding_window": "sliding_window"}
CAPS = {f"{name}_logit_softcapping": f"{name}_logit_softcapping" for name in ("attn", "final")}
MORE_KEYS = {
    "llama": WINDOW,
    "gemma2": WINDOW | CAPS,
    "gemma3": WINDOW | {"rope.freq_base_swa": "rope_local_base_freq"},
}
OF_A_HEAD = ("attention.value_length", "rope.dimension_count")
"""Keys that repeat the size of a head; models where they say else are of another kind."""
FREQUENCIES = "rope_freqs.weight"
SCALING = ("rope.scaling.type", "rope.scaling.factor")


def write_published_gguf(file: Path, directory: Path) -> None:
    """Writes a directory as it would be published.

    Raises ValueError for a file that is damaged, and for a model or a vocabulary of another kind.
    """
    try:
        facts, stored = read_gguf(file)
        config = _config(facts, stored)
        tensors, vocabulary = _tensors(facts, stored, config["model_type"]), vocabulary_files(facts)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        for name, content in vocabulary.items():
            (directory / name).write_bytes(content)
        write_directory(directory, tensors)
        open_published(directory)
    except ImportError:
        raise ValueError(f"{file} is read by the package gguf, which the extra gguf installs") from None
    except (AttributeError, LookupError, OverflowError, TypeError, UnicodeError) as error:
        raise ValueError(f"{file} is damaged or of another form: {type(error).__name__}: {error}") from error
    except (ArithmeticError, ValueError) as error:
        # The directory is gone when the message is read.
        reason = str(error).replace(f"{directory}/", "").replace(str(directory), "it")
        raise ValueError(f"{file}: {reason}") from error


def _config(facts: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """What config.json says."""
    kind = facts["general.architecture"]
    if kind not in MODEL_TYPES:
        raise ValueError(f"the architecture {kind!r} is not read from GGUF, only {', '.join(MODEL_TYPES)}")
    own = {key.removeprefix(f"{kind}."): value for key, value in facts.items() if key.startswith(f"{kind}.")}
    keys = KEYS | MORE_KEYS.get(kind, {})
    if unknown := own.keys() - keys.keys() - {*OF_A_HEAD, *SCALING, "vocab_size"}:
        raise ValueError(f"{', '.join(sorted(unknown))} of {kind} is not known here")
    counts = {key: value for key, value in own.items() if key in KEYS and COUNTS.search(key)}
    if wrong := [f"{key} {value!r}" for key, value in counts.items() if type(value) is not int or value < 1]:
        raise ValueError(f"{wrong[0]} of {kind} is no number of something, such as 1")
    head = own.get("attention.key_length", own["embedding_length"] // own["attention.head_count"])
    if other := [f"{key} {own[key]}" for key in OF_A_HEAD if own.get(key, head) != head]:
        raise ValueError(f"{', '.join(other)} of {kind} is not known here, only the {head} of a head")
    # llama.cpp's base for a file that does not state it.
    config = {"rope_theta": 10_000.0} | {theirs: own[key] for key, theirs in keys.items() if key in own}
    ids = {f"{role}_token_id": facts.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")}
    return {
        "model_type": "mistral" if kind == "llama" and "sliding_window" in config else MODEL_TYPES[kind],
        **config,
        **_scaling(own),
        **(_frequencies(tensors[FREQUENCIES], config["rope_theta"], head) if FREQUENCIES in tensors else {}),
        "head_dim": head,
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in tensors,
        **(_of_gemma(kind, config, head) if kind in GEMMA else {"hidden_act": "silu"}),
        **({} if kind == "qwen2" else {"attention_bias": "blk.0.attn_q.bias" in tensors}),
        **{key: value for key, value in ids.items() if value is not None},
    }


def _scaling(own: Mapping[str, Any]) -> dict[str, Any]:
    """The scaling of rotary positions; a factor without a type is linear, as in llama.cpp."""
    kind, factor = (own.get(key, default) for key, default in zip(SCALING, ("linear", 0.0), strict=True))
    if kind not in ("none", "linear"):
        raise ValueError(f"{SCALING[0]} {kind!r} is not read from GGUF, only none and linear")
    used = kind == "linear" and factor not in (0, 1)
    return {"rope_scaling": {"rope_type": kind, "factor": factor}} if used else {}


def _frequencies(tensor: StoredTensor, base: float, head: int) -> dict[str, Any]:
    """The scaling of Llama 3.1, of which GGUF has only what each frequency is divided by; ValueError for another."""
    factors = tensor.values().reshape(1, head // 2)
    scaling = Llama3(factor=float(factors.max()))
    scaled, _ = scaling.frequencies(base, head, jnp.zeros((1, 1), int))
    if not np.allclose(factors * scaled, rotary_frequencies(base, head), rtol=1e-3, atol=0):
        raise ValueError(f"its {FREQUENCIES} are not those of Llama 3.1, which alone are read from GGUF")
    return written_rotary(Rotary(base=base, scaling=scaling))


def _of_gemma(kind: str, config: Mapping[str, Any], head: int) -> dict[str, Any]:
    """What a file of Gemma does not say and llama.cpp derives.

    The largest models alone scale queries by another width than the head's, and layers have windows in periods, or none
    has one where Gemma 3 states none (https://github.com/ggml-org/llama.cpp, src/models/gemma2.cpp and gemma3.cpp).
    """
    period, largest = GEMMA[kind]
    width = config["hidden_size"] // config["num_attention_heads"]
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": width if config["num_hidden_layers"] == largest else head,
        "sliding_window_pattern": period if config.get("sliding_window", kind == "gemma2") else 1,
    }


def _tensors(facts: Mapping[str, Any], stored: Mapping[str, StoredTensor], model_type: str) -> dict[str, Tensor]:
    """The tensors by their published names, dequantised when they are written."""
    kind, tensors, published = facts["general.architecture"], {}, _published_names(facts, model_type)
    heads = {"attn_q": facts[f"{kind}.attention.head_count"]}
    heads["attn_k"] = facts.get(f"{kind}.attention.head_count_kv", heads["attn_q"])
    layers = facts[f"{kind}.block_count"]
    for name, tensor in stored.items():
        if name == FREQUENCIES:
            continue
        numbers = NUMBER.findall(name)
        # One layer has one name: 00 would take the place of 0.
        if pattern_of(name) not in published or any(n != str(int(n)) or int(n) >= layers for n in numbers):
            raise ValueError(f"the tensor {name} is not known here, in {layers:,} layers")
        halves = heads.get(name.split(".")[-2], 0) if kind == "llama" else 0
        # Gemma's norms multiply by 1 and what is published, which GGUF has added up.
        less = float(kind in GEMMA and name.endswith("norm.weight"))
        make = partial(_values, tensor, halves, less)
        tensors[published[pattern_of(name)].format(*numbers)] = Tensor(np.dtype(np.float32), tensor.shape, make)
    return tensors


def _published_names(facts: Mapping[str, Any], model_type: str) -> dict[str, str]:
    """The published names of a family's tensors by those of GGUF, in both `{}` for the number of the layer.

    The package maps the names of the first layer alone, so that no count that a file states is believed.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    known, kind = {name: each for each, name in MODEL_ARCH_NAMES.items()}, facts["general.architecture"]
    if kind not in known:
        raise ValueError(f"the installed package gguf does not know the architecture {kind!r}; install a newer one")
    table = get_tensor_name_map(known[kind], 1)
    theirs = [rule.theirs for rule in FAMILIES[model_type].rules]
    names = {name: table.get_name(name.format(0), (".weight", ".bias")) for name in theirs}
    return {pattern_of(ours): name for name, ours in names.items() if ours}


def _values(tensor: StoredTensor, heads: int, less: float) -> np.ndarray:
    """A tensor's numbers; GGUF pairs neighbouring rows of Llama's rotary heads, published files a head's halves."""
    values, rows = tensor.values(), tensor.shape[0]
    if less:
        values = values - less
    if heads:
        values = values.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2).reshape(tensor.shape)
    return values
