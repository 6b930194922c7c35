"""Settings of published models are read, or refused by their names where no layer here can express them."""

import json

import numpy as np
import pytest
from family_cases import (
    ALBERT,
    BART,
    BERT,
    DINO,
    DISTILBERT,
    ELECTRA,
    GEMMA,
    GPT2,
    LLAMA,
    MODERNBERT,
    NEOX,
    ODD,
    QWEN3,
    ROBERTA,
    T5,
    VIT,
    WHISPER,
)

from transformer_jax.interop.families import FAMILIES
from transformer_jax.interop.published import published_config
from transformer_jax.interop.tensor_files import Tensor, write_directory

SMALL = {"bert": BERT, "roberta": ROBERTA, "xlm-roberta": ROBERTA, "distilbert": DISTILBERT, "albert": ALBERT}
SMALL |= {"electra": ELECTRA, "modernbert": MODERNBERT, "gpt2": GPT2, "gpt_neox": NEOX, "qwen3": QWEN3, "t5": T5}
SMALL |= dict.fromkeys(("llama", "mistral", "qwen2", "olmo2", "smollm3", "phi"), LLAMA) | {"mt5": T5}
SMALL |= dict.fromkeys(("gemma2", "gemma3_text"), GEMMA) | dict.fromkeys(("bart", "mbart", "marian", "m2m_100"), BART)
SIDE = {**GEMMA, "vocab_size": 45}
SMALL |= {"t5gemma": {"encoder": SIDE, "decoder": {**SIDE, "cross_attention_hidden_size": 16}}}
SMALL |= {"vit": VIT, "deit": VIT, "whisper": WHISPER} | dict.fromkeys(("dinov2", "dinov2_with_registers"), DINO)
REFUSED = [
    ("bert", {"position_embedding_type": "relative_key_query"}, "position_embedding_type 'relative_key_query'"),
    ("bert", {"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu'"),
    ("roberta", {"is_decoder": True}, "is_decoder True"),
    ("xlm-roberta", {"add_cross_attention": True}, "add_cross_attention True"),
    ("distilbert", {"tie_word_embeddings": False}, "tie_word_embeddings False"),
    ("albert", {"num_hidden_groups": 2}, "num_hidden_groups 2"),
    ("albert", {"inner_group_num": 2}, "inner_group_num 2"),
    ("albert", {"embedding_size": 16}, "embedding_size 16"),
    ("electra", {"hidden_act": "relu"}, "hidden_act 'relu'"),
    ("modernbert", {"decoder_bias": False}, "decoder_bias False"),
    ("modernbert", {"classifier_activation": "silu"}, "classifier_activation 'silu'"),
    ("modernbert", {"embedding_dropout": 0.1}, "embedding_dropout 0.1"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights False"),
    ("gpt_neox", {"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_type 'longrope'"),
    ("llama", {"rope_interleaved": True}, "rope_interleaved"),
    ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ("mistral", {"sliding_window": 1}, "sliding_window is 2 or more"),
    ("qwen2", {"is_causal": False}, "is_causal False"),
    ("qwen2", {"dual_chunk_attention_config": {"chunk_size": 262_144}}, "dual_chunk_attention_config"),
    ("qwen2", {"use_mrope": True}, "use_mrope"),
    ("qwen3", {"num_experts": 8}, "num_experts"),
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention True"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention True"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0"),
    ("olmo2", {"clip_qkv": 8.0}, "clip_qkv"),
    ("smollm3", {"use_sliding_window": True}, "use_sliding_window True"),
    ("phi", {"qk_layernorm": True}, "qk_layernorm True"),
    ("phi", {"tie_word_embeddings": True}, "tie_word_embeddings True"),
    ("bart", {"normalize_before": True}, "normalize_before True"),
    ("mbart", {"add_final_layer_norm": False}, "add_final_layer_norm False"),
    ("marian", {"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings False"),
    ("m2m_100", {"tie_word_embeddings": False}, "tie_word_embeddings False"),
    ("t5", {"feed_forward_proj": "gated-tanh"}, "feed_forward_proj 'gated-tanh'"),
    ("mt5", {"relative_attention_num_buckets": "many"}, "relative_attention_num_buckets is a whole number"),
    ("t5gemma", {"decoder": {**SIDE, "cross_attention_hidden_size": 24}}, "cross_attention_hidden_size 24"),
    *(
        (name, {"hidden_act": "quick_gelu"}, "'quick_gelu'")
        for name in ("vit", "deit", "dinov2", "dinov2_with_registers")
    ),
    ("whisper", {"tie_word_embeddings": False}, "tie_word_embeddings False"),
]
HEADS = ("generator_lm_head.bias", "head.dense.weight", "decoder.bias")
"""Tensors by which a language model is told."""


def read(directory, values, heads=()):
    """Our configuration of a model with some layers, whose tensors have these names."""
    names = (*heads, *(f"layers.{number}" for number in range(9)))
    write_directory(directory, dict.fromkeys(names, Tensor(np.dtype("float32"), (1,), lambda: np.zeros(1))))
    (directory / "config.json").write_text(
        json.dumps(values if "image_size" in values else {"vocab_size": 45} | values)
    )
    return published_config(directory)


@pytest.mark.parametrize(("family", "keys", "words"), REFUSED)
def test_a_setting_that_no_layer_has_is_refused_by_name(family, keys, words, tmp_path):
    values = {"model_type": family, **SMALL[family]}
    assert read(tmp_path, values, HEADS).d_model == 16, "it is read without the setting"
    with pytest.raises(ValueError, match=words):
        read(tmp_path, values | keys, HEADS)


def test_every_family_refuses_something():
    assert {family for family, _, _ in REFUSED} == FAMILIES.keys() == SMALL.keys()


def test_the_keys_of_published_checkpoints_are_read(tmp_path):
    kinds = {one.name: family.name for family in FAMILIES.values() for one in family.architectures}
    for case, keys in ODD.items():
        name = case.split()[0]
        values = {"model_type": kinds[name], "architectures": [name], **keys}
        if not name.startswith("T5Gemma"):  # whose keys are in two
            expected = 0 if "image_size" in keys else keys.get("vocab_size", 45)
            assert read(tmp_path, values).vocab_size == expected, case
