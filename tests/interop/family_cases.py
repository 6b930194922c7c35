"""The small models that `transformers` writes for the tests of the families, as the keys of their config.json."""

from typing import Any

VOCABULARY = 45
SPECIAL = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BERT = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24, "num_hidden_layers": 2}
BERT |= {"max_position_embeddings": 20}
ROBERTA = {**BERT, "type_vocab_size": 1, "pad_token_id": 1}
DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24, "max_position_embeddings": 20}
ALBERT = ELECTRA = {**BERT, "embedding_size": 8}
MODERNBERT = {**BERT, "num_hidden_layers": 4, "local_attention": 4, "cls_token_id": 1, "sep_token_id": 2}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16}
NEOX = {**BERT, "num_hidden_layers": 3, "rotary_pct": 0.5}
LLAMA = {**BERT, "num_key_value_heads": 2, "max_position_embeddings": 64}
QWEN3 = {**LLAMA, "head_dim": 8}
GEMMA = {**LLAMA, "head_dim": 8, "num_hidden_layers": 5, "sliding_window": 4, "query_pre_attn_scalar": 6}
BART = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 24}
BART |= {name.replace("encoder", "decoder"): size for name, size in BART.items()} | {"max_position_embeddings": 20}
MARIAN = {**BART, "pad_token_id": 44, "decoder_start_token_id": 44, "scale_embedding": True}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 8}
T5 |= {"relative_attention_max_distance": 9, "decoder_start_token_id": 0}
WHISPER = {
    **{key: value for key, value in BART.items() if key != "max_position_embeddings"},
    "num_mel_bins": 5,
    "max_source_positions": 10,
    "max_target_positions": 20,
}
VIT = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24, "num_hidden_layers": 2}
VIT |= {"image_size": 8, "patch_size": 4}
DINO = {**{key: value for key, value in VIT.items() if key != "intermediate_size"}, "mlp_ratio": 2}


def rope(kind="default", theta=10_000.0, **others):
    """Rotary positions in the keys of today."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **others}}


LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
CASES = {
    "BertForMaskedLM": BERT,
    "BertForPreTraining": {**BERT, "type_vocab_size": 3},
    "BertForSequenceClassification": {**BERT, "num_labels": 3, "id2label": {0: "bad", 1: "so so", 2: "good"}},
    "BertForTokenClassification": {**BERT, "num_labels": 5, "hidden_act": "relu"},
    "BertForQuestionAnswering": {**BERT, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5},
    "BertModel": {**BERT, "vocab_size": 48},
    "RobertaForMaskedLM": ROBERTA,
    "RobertaForSequenceClassification": {**ROBERTA, "num_labels": 3},
    "RobertaForTokenClassification": {**ROBERTA, "num_labels": 3, "pad_token_id": 0},
    "RobertaForQuestionAnswering": {**ROBERTA, "pad_token_id": 0, "type_vocab_size": 2},
    "RobertaModel": ROBERTA,
    "XLMRobertaForMaskedLM": {**ROBERTA, "vocab_size": 48},
    "XLMRobertaForSequenceClassification": ROBERTA,
    "XLMRobertaForTokenClassification": ROBERTA,
    "XLMRobertaForQuestionAnswering": ROBERTA,
    "XLMRobertaModel": ROBERTA,
    "DistilBertForMaskedLM": DISTILBERT,
    "DistilBertForSequenceClassification": {**DISTILBERT, "num_labels": 3},
    "DistilBertForTokenClassification": {**DISTILBERT, "activation": "relu"},
    "DistilBertForQuestionAnswering": DISTILBERT,
    "DistilBertModel": {**DISTILBERT, "sinusoidal_pos_embds": True},
    "AlbertForMaskedLM": ALBERT,
    "AlbertForPreTraining": {**ALBERT, "hidden_act": "gelu"},
    "AlbertForSequenceClassification": {**ALBERT, "num_labels": 3},
    "AlbertForTokenClassification": {**ALBERT, "num_hidden_layers": 3},
    "AlbertForQuestionAnswering": ALBERT,
    "AlbertModel": ALBERT,
    "ElectraForMaskedLM": ELECTRA,
    "ElectraForPreTraining": {**ELECTRA, "hidden_act": "gelu_new"},
    "ElectraForSequenceClassification": {**ELECTRA, "num_labels": 3},
    "ElectraForTokenClassification": {**ELECTRA, "embedding_size": 16},
    "ElectraForQuestionAnswering": {**ELECTRA, "hidden_act": "relu"},
    "ElectraModel": ELECTRA,
    "ModernBertForMaskedLM": MODERNBERT,
    "ModernBertForSequenceClassification": {**MODERNBERT, "num_labels": 3, "classifier_pooling": "mean"},
    "ModernBertForTokenClassification": {**MODERNBERT, "classifier_bias": True, "norm_bias": True, "mlp_bias": True},
    "ModernBertForQuestionAnswering": {**MODERNBERT, "layer_types": ["full_attention"] * 4, "attention_bias": True},
    "ModernBertModel": {**MODERNBERT, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "GPT2LMHeadModel": GPT2,
    "GPT2LMHeadModel untied": {**GPT2, "tie_word_embeddings": False},
    "GPT2LMHeadModel narrow": {**GPT2, "n_inner": 20, "activation_function": "relu", "layer_norm_epsilon": 1e-3},
    "GPTNeoXForCausalLM": NEOX,
    "GPTNeoXForCausalLM one after the other": {**NEOX, "use_parallel_residual": False, "rotary_pct": 1.0},
    "GPTNeoXForCausalLM without biases": {**NEOX, "attention_bias": False, "rotary_emb_base": 500},
    "LlamaForCausalLM": LLAMA,
    "LlamaForCausalLM tied": {**LLAMA, "tie_word_embeddings": True, "num_key_value_heads": 1},
    "LlamaForCausalLM biases": {**LLAMA, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4},
    "LlamaForCausalLM wide heads": {**LLAMA, "head_dim": 8, **rope(theta=500_000.0)},
    "LlamaForCausalLM llama3": {**LLAMA, **rope("llama3", factor=8.0, **LLAMA3)},
    "LlamaForCausalLM linear": {**LLAMA, **rope("linear", factor=4.0)},
    "LlamaForCausalLM dynamic": {**LLAMA, **rope("dynamic", factor=4.0), "max_position_embeddings": 8},
    "LlamaForCausalLM yarn": {**LLAMA, **rope("yarn", factor=4.0, original_max_position_embeddings=16)},
    "MistralForCausalLM": {**LLAMA, "sliding_window": 4},
    "MistralForCausalLM without a window": {**LLAMA, "sliding_window": None, "head_dim": 8},
    "Qwen2ForCausalLM": LLAMA,
    "Qwen2ForCausalLM windows": {**LLAMA, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "Qwen2ForCausalLM tied": {**LLAMA, "tie_word_embeddings": True},
    "Qwen3ForCausalLM": QWEN3,
    "Qwen3ForCausalLM biases": {**QWEN3, "attention_bias": True, "tie_word_embeddings": True},
    "Gemma2ForCausalLM": GEMMA,
    "Gemma2ForCausalLM without caps": {**GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    "Gemma3ForCausalLM": {**GEMMA, "num_hidden_layers": 8},
    "Gemma3ForCausalLM every other": {
        **GEMMA,
        "layer_types": ["full_attention", "sliding_attention"] * 2 + ["full_attention"],
    },
    "Olmo2ForCausalLM": LLAMA,
    "Olmo2ForCausalLM tied": {**LLAMA, "tie_word_embeddings": True, "num_key_value_heads": 4},
    "SmolLM3ForCausalLM": {**LLAMA, "num_hidden_layers": 5},
    "SmolLM3ForCausalLM untied": {
        **LLAMA,
        "no_rope_layers": [0, 1],
        "tie_word_embeddings": False,
        "attention_bias": True,
    },
    "PhiForCausalLM": {**LLAMA, "partial_rotary_factor": 0.5},
    "PhiForCausalLM all heads": {**LLAMA, "num_key_value_heads": 4, "hidden_act": "gelu"},
    "BartForConditionalGeneration": BART,
    "BartForConditionalGeneration shallow": {**BART, "decoder_layers": 1, "scale_embedding": True},
    "BartForConditionalGeneration lopsided": {**BART, "decoder_layers": 3, "decoder_ffn_dim": 20},
    "BartForConditionalGeneration heads": {**BART, "encoder_attention_heads": 2, "activation_function": "relu"},
    "MBartForConditionalGeneration": {**BART, "activation_function": "relu"},
    "MBartForConditionalGeneration scaled": {**BART, "scale_embedding": True, "decoder_layers": 1},
    "MarianMTModel": MARIAN,
    "MarianMTModel swish": {**MARIAN, "activation_function": "swish", "decoder_layers": 1, "decoder_ffn_dim": 40},
    "M2M100ForConditionalGeneration": {**BART, "pad_token_id": 1},
    "M2M100ForConditionalGeneration lopsided": {
        **BART,
        "pad_token_id": 1,
        "encoder_ffn_dim": 20,
        "scale_embedding": False,
    },
    "T5ForConditionalGeneration": T5,
    "T5ForConditionalGeneration gated": {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "T5ForConditionalGeneration lopsided": {**T5, "num_decoder_layers": 3, "feed_forward_proj": "gated-silu"},
    "T5ForConditionalGeneration untied": {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "T5GemmaForConditionalGeneration": GEMMA,
    "T5GemmaForConditionalGeneration lopsided": {**GEMMA, "encoder": {"num_hidden_layers": 2, "sliding_window": 3}},
    "WhisperForConditionalGeneration": WHISPER,
    "WhisperForConditionalGeneration lopsided": {
        **WHISPER,
        **{"decoder_layers": 3, "encoder_attention_heads": 2, "activation_function": "relu", "vocab_size": 48},
    },
    "MT5ForConditionalGeneration": {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "ViTForImageClassification": {**VIT, "num_labels": 3},
    "ViTForImageClassification tanh": {**VIT, "num_labels": 3, "qkv_bias": False, "hidden_act": "gelu_new"},
    "ViTModel": {**VIT, "patch_size": 2, "pooler_act": "relu"},
    "DeiTForImageClassificationWithTeacher": {**VIT, "num_labels": 3},
    "DeiTForImageClassification": {**VIT, "num_labels": 3, "hidden_act": "relu"},
    "DeiTModel": {**VIT, "patch_size": 2},
    "Dinov2ForImageClassification": {**DINO, "num_labels": 3},
    "Dinov2Model": DINO,
    "Dinov2Model smaller": {**DINO, "image_size": 28, "qkv_bias": False},
    "Dinov2Model gated": {**DINO, "use_swiglu_ffn": True, "hidden_act": "silu"},
    "Dinov2WithRegistersForImageClassification": {**DINO, "num_labels": 3, "num_register_tokens": 2},
    "Dinov2WithRegistersModel": {**DINO, "image_size": 12, "num_register_tokens": 3},
}


def old_rope(kind, factor, **others):
    """Scaled rotary positions in the keys of most checkpoints."""
    return {"rope_scaling": {"type": kind, "factor": factor, **others}}


SHORT = {"original_max_position_embeddings": 6}
"""A text that is half of the tests' texts."""
SUMMARY = {"summary_type": "cls_index", "summary_use_proj": True, "summary_activation": "gelu"}
WIDER = {"hidden_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2}
OPUS = {"activation_function": "swish", "static_position_embeddings": True, "normalize_before": False}
OPUS |= {"normalize_embedding": False, "add_final_layer_norm": False, "add_bias_logits": False, "num_beams": 6}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
ODD: dict[str, dict[str, Any]] = {
    "BertForMaskedLM as BERT multilingual": {
        **BERT,
        **{"vocab_size": 47, "directionality": "bidi", "pooler_fc_size": 768, "pooler_type": "first_token_transform"},
    },
    "BertForSequenceClassification as a cross-encoder": {
        **BERT,
        **{"id2label": {0: "LABEL_0"}, "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
    },
    "BertModel as MiniLM": {**BERT, "hidden_size": 24, "num_attention_heads": 12, "num_hidden_layers": 3},
    "BertForTokenClassification as a tagger": {
        **BERT,
        "num_labels": 9,
        "classifier_dropout": 0.2,
        "type_vocab_size": 1,
    },
    "BertForPreTraining with silu": {**BERT, "hidden_act": "swish", "layer_norm_eps": 1e-3, "pad_token_id": 44},
    "RobertaForMaskedLM as RoBERTa base": {**ROBERTA, "layer_norm_eps": 1e-5, "bos_token_id": 0, "vocab_size": 41},
    "RobertaForMaskedLM as BERTweet": {**ROBERTA, "vocab_size": 64, "hidden_dropout_prob": 0.2, "num_hidden_layers": 1},
    "RobertaForSequenceClassification of pairs": {**ROBERTA, "id2label": {0: "LABEL_0"}, "type_vocab_size": 2},
    "RobertaModel with other padding": {**ROBERTA, "pad_token_id": 2, "eos_token_id": 1, "hidden_act": "gelu_new"},
    "RobertaForTokenClassification wide heads": {**ROBERTA, "num_attention_heads": 1, "intermediate_size": 9},
    "XLMRobertaForMaskedLM as XLM-R base": {**ROBERTA, "layer_norm_eps": 1e-5, "output_past": True},
    "XLMRobertaModel as BGE-M3": {**ROBERTA, "layer_norm_eps": 1e-5, "max_position_embeddings": 34, "vocab_size": 42},
    "XLMRobertaForSequenceClassification as a reranker": {
        **ROBERTA,
        "id2label": {0: "LABEL_0"},
        "num_hidden_layers": 3,
    },
    "XLMRobertaForTokenClassification as a tagger": {**ROBERTA, "num_labels": 9, "hidden_act": "gelu_fast"},
    "XLMRobertaForQuestionAnswering with types": {**ROBERTA, "type_vocab_size": 2, "num_attention_heads": 8},
    "DistilBertForMaskedLM as DistilBERT base": {**DISTILBERT, "tie_weights_": True, "output_past": True},
    "DistilBertForMaskedLM with sinusoids": {**DISTILBERT, "sinusoidal_pos_embds": True, "vocab_size": 48},
    "DistilBertForSequenceClassification as SST-2": {
        **DISTILBERT,
        **{"id2label": {0: "NEGATIVE", 1: "POSITIVE"}, "finetuning_task": "sst-2", "qa_dropout": 0.3, "n_layers": 3},
    },
    "DistilBertForTokenClassification as a tagger": {**DISTILBERT, "num_labels": 9, "dim": 24, "n_heads": 12},
    "DistilBertForQuestionAnswering with silu": {**DISTILBERT, "activation": "silu", "qa_dropout": 0.3},
    "AlbertForMaskedLM as ALBERT base 1": {
        **ALBERT,
        **{"hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "gap_size": 0},
        **{"net_structure_type": 0, "num_memory_blocks": 0, "down_scale_factor": 1, "layers_to_keep": []},
    },
    "AlbertForMaskedLM as ALBERT xxlarge": {**ALBERT, "hidden_size": 32, "num_attention_heads": 8, "vocab_size": 48},
    "AlbertForPreTraining as ALBERT tiny": {**ALBERT, "hidden_size": 24, "num_attention_heads": 12, "vocab_size": 48},
    "AlbertForSequenceClassification deep": {**ALBERT, "num_hidden_layers": 12, "classifier_dropout_prob": 0.2},
    "AlbertModel with relu": {**ALBERT, "hidden_act": "relu", "embedding_size": 24, "type_vocab_size": 1},
    "ElectraForMaskedLM as the generator": {**ELECTRA, "embedding_size": 24, "num_attention_heads": 2, **SUMMARY},
    "ElectraForPreTraining as ELECTRA base": {**ELECTRA, "embedding_size": 16, **SUMMARY},
    "ElectraForPreTraining as KoELECTRA": {**ELECTRA, "embedding_size": 6, "vocab_size": 47, "num_hidden_layers": 3},
    "ElectraForSequenceClassification of pairs": {**ELECTRA, "id2label": {0: "LABEL_0"}, "classifier_dropout": 0.3},
    "ElectraForQuestionAnswering with silu": {**ELECTRA, "hidden_act": "silu", "type_vocab_size": 1},
    "ModernBertForMaskedLM as ModernBERT base": {
        **MODERNBERT,
        **{"global_attn_every_n_layers": 3, "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0},
        **{"num_hidden_layers": 7, "classifier_pooling": "mean", "position_embedding_type": "absolute"},
        **{"layer_norm_eps": 1e-5, "decoder_bias": True, "vocab_size": 48},
    },
    "ModernBertForMaskedLM as mmBERT": {
        **MODERNBERT,
        **{"global_attn_every_n_layers": 3, "global_rope_theta": 160_000.0, "local_rope_theta": 160_000.0},
        **{"hidden_size": 24, "num_attention_heads": 6},
    },
    "ModernBertForMaskedLM with silu": {**MODERNBERT, "hidden_activation": "silu", "classifier_activation": "silu"},
    "ModernBertForSequenceClassification of pairs": {**MODERNBERT, "id2label": {0: "LABEL_0"}, "norm_eps": 1e-3},
    "ModernBertModel with narrow windows": {**MODERNBERT, "local_attention": 3, "num_hidden_layers": 5},
    "GPT2LMHeadModel as GPT-2": {**GPT2, "n_ctx": 16, **SUMMARY, "task_specific_params": {"text-generation": {}}},
    "GPT2LMHeadModel as GPT-2 XL": {**GPT2, "n_embd": 20, "n_head": 5, "n_layer": 3, "output_past": True},
    "GPT2LMHeadModel as Cerebras-GPT": {
        **GPT2,
        **{"activation_function": "gelu", "n_inner": 64, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    },
    "GPT2LMHeadModel as a padded one": {**GPT2, "vocab_size": 64, "embd_pdrop": 0.0, "n_head": 1},
    "GPTNeoXForCausalLM as Pythia 70M": {
        **NEOX,
        **{"hidden_size": 32, "rotary_pct": 0.25, "rotary_emb_base": 10_000, "vocab_size": 48},
    },
    "GPTNeoXForCausalLM as GPT-NeoX 20B": {
        **NEOX,
        **{"hidden_size": 48, "num_attention_heads": 2, "rotary_pct": 0.25, "hidden_act": "gelu_fast"},
        **{"attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0},
    },
    "GPTNeoXForCausalLM as Dolly": {**NEOX, "custom_pipelines": {"text-generation": {"pt": "AutoModelForCausalLM"}}},
    "GPTNeoXForCausalLM tied": {**NEOX, "tie_word_embeddings": True, "layer_norm_eps": 1e-3},
    "GPTNeoXForCausalLM longer": {**NEOX, "max_position_embeddings": 6, **old_rope("linear", 4.0)},
    "LlamaForCausalLM as Llama 1": {**LLAMA, "num_key_value_heads": None, "max_sequence_length": 2048},
    "LlamaForCausalLM as Llama 3.2 1B": {
        **LLAMA,
        **{"tie_word_embeddings": True, "head_dim": 4, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5},
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0, **LLAMA3, **SHORT},
    },
    "LlamaForCausalLM as SmolLM2": {
        **{**LLAMA, "hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
        **{"is_llama_config": True, "rope_interleaved": False, "rope_theta": 100_000, "vocab_size": 48},
    },
    "LlamaForCausalLM as DeepSeek Coder": {**LLAMA, "max_position_embeddings": 6, **old_rope("linear", 4.0)},
    "LlamaForCausalLM dynamic from a short text": {**LLAMA, "max_position_embeddings": 6, **old_rope("dynamic", 2.0)},
    "LlamaForCausalLM yarn beyond a short text": {**LLAMA, **old_rope("yarn", 8.0, **SHORT), "head_dim": 12},
    "MistralForCausalLM as Mistral 0.1": {**LLAMA, "rms_norm_eps": 1e-5, "sliding_window": 4096, "vocab_size": 48},
    "MistralForCausalLM as Nemo": {
        **LLAMA,
        "head_dim": 6,
        "sliding_window": None,
        "rope_theta": 1e6,
        "hidden_size": 20,
    },
    "MistralForCausalLM longer": {**LLAMA, "sliding_window": 5, **old_rope("yarn", 16.0, **SHORT)},
    "MistralForCausalLM of one head": {**LLAMA, "num_key_value_heads": 1, "sliding_window": 2},
    "MistralForCausalLM tied": {**LLAMA, "tie_word_embeddings": True, "sliding_window": 3, "hidden_act": "gelu"},
    "Qwen2ForCausalLM as Qwen2 0.5B": {
        **{**LLAMA, "hidden_size": 28, "num_attention_heads": 7, "num_key_value_heads": 1, "tie_word_embeddings": True},
        **{"use_sliding_window": False, "sliding_window": 3, "max_window_layers": 21, "rope_theta": 1e6},
    },
    "Qwen2ForCausalLM as Qwen2.5 longer": {**LLAMA, **old_rope("yarn", 4.0, **SHORT), "rope_theta": 1e6},
    "Qwen2ForCausalLM as DeepSeek's": {**LLAMA, "use_mrope": False, "sliding_window": 4096, "vocab_size": 48},
    "Qwen2ForCausalLM windows everywhere": {
        **LLAMA,
        **{"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0, "num_hidden_layers": 3},
    },
    "Qwen3ForCausalLM as Qwen3 0.6B": {
        **QWEN3,
        "tie_word_embeddings": True,
        "rope_theta": 1e6,
        "max_window_layers": 28,
    },
    "Qwen3ForCausalLM as Qwen3 32B": {**QWEN3, "num_key_value_heads": 1, "hidden_size": 20, "vocab_size": 48},
    "Qwen3ForCausalLM longer": {**QWEN3, **old_rope("yarn", 4.0, **SHORT), "head_dim": 6},
    "Qwen3ForCausalLM windows": {**QWEN3, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "Gemma2ForCausalLM as Gemma 2 2B": {
        **GEMMA,
        **{"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "vocab_size": 48},
        **{"cache_implementation": "hybrid", "query_pre_attn_scalar": 8, "num_hidden_layers": 2},
    },
    "Gemma2ForCausalLM as Gemma 2 27B": {**GEMMA, "query_pre_attn_scalar": 4, "num_hidden_layers": 2},
    "Gemma2ForCausalLM of one head": {**GEMMA, "num_key_value_heads": 1, "num_hidden_layers": 3, "sliding_window": 2},
    "Gemma2ForCausalLM all of one kind": {**GEMMA, "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2},
    "Gemma3ForCausalLM as Gemma 3 1B": {
        **{**GEMMA, "num_hidden_layers": 7, "num_key_value_heads": 1, "cache_implementation": "hybrid"},
        **{"rope_local_base_freq": 10_000, "rope_theta": 1_000_000, "sliding_window_pattern": 6, "rope_scaling": None},
    },
    "Gemma3ForCausalLM as MedGemma 27B": {
        **{**GEMMA, "num_hidden_layers": 3, "sliding_window_pattern": 3, "query_pre_attn_scalar": 4},
        **{"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_local_base_freq": 10_000.0},
    },
    "Gemma3ForCausalLM scaled in today's keys": {
        **{**GEMMA, "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    },
    "Gemma3ForCausalLM as Gemma 3 270M": {
        **{**GEMMA, "num_hidden_layers": 4, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
        **{"_sliding_window_pattern": 6, "use_bidirectional_attention": False, "vocab_size": 64},
    },
    "Olmo2ForCausalLM as OLMo 2 7B": {
        **LLAMA,
        **{"num_key_value_heads": 4, "rope_theta": 500_000, "rms_norm_eps": 1e-6, "pad_token_id": 44, "vocab_size": 64},
    },
    "Olmo2ForCausalLM as OLMo 2 32B": {**LLAMA, "num_key_value_heads": 1, "num_hidden_layers": 3},
    "Olmo2ForCausalLM longer": {**LLAMA, **old_rope("yarn", 8.0, **SHORT)},
    "Olmo2ForCausalLM biases": {**LLAMA, **WIDER, "attention_bias": True},
    "SmolLM3ForCausalLM as SmolLM3 3B": {
        **{**LLAMA, "num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0], "no_rope_layer_interval": 4},
        **{"layer_types": ["full_attention"] * 4, "max_window_layers": 28, "pretraining_tp": 2, "rope_theta": 5e6},
        **{"use_sliding_window": False, "sliding_window": None, "mlp_bias": False},
    },
    "SmolLM3ForCausalLM every other": {**LLAMA, "no_rope_layer_interval": 2, "mlp_bias": True},
    "SmolLM3ForCausalLM longer": {**LLAMA, **old_rope("yarn", 2.0, **SHORT), "num_hidden_layers": 4},
    "SmolLM3ForCausalLM of one head": {**LLAMA, "num_key_value_heads": 1, "no_rope_layers": [1, 0], "vocab_size": 48},
    "PhiForCausalLM as Phi 1.5": {**LLAMA, "num_key_value_heads": None, "hidden_size": 32, "vocab_size": 48},
    "PhiForCausalLM as Phi 2": {
        **{**LLAMA, "hidden_size": 40, "num_key_value_heads": 4, "partial_rotary_factor": 0.4, "qk_layernorm": False},
        **{"embd_pdrop": 0.0, "resid_pdrop": 0.1, "hidden_act": "gelu_new"},
    },
    "PhiForCausalLM longer": {**LLAMA, "hidden_size": 32, "max_position_embeddings": 6, **old_rope("linear", 2.0)},
    "PhiForCausalLM of one head": {
        **LLAMA,
        "num_key_value_heads": 1,
        "partial_rotary_factor": 1.0,
        "hidden_act": "relu",
    },
    "BartForConditionalGeneration as BART base": {
        **{**BART, "pad_token_id": 1, "bos_token_id": 0, "add_bias_logits": False, "add_final_layer_norm": False},
        **{"classif_dropout": 0.1, "normalize_before": False, "normalize_embedding": True, "extra_pos_embeddings": 2},
        **{"num_hidden_layers": 2, "activation_dropout": 0.1, "attention_dropout": 0.1, "vocab_size": 44},
    },
    "BartForConditionalGeneration as DistilBART": {**BART, "encoder_layers": 4, "activation_function": "gelu_new"},
    "MBartForConditionalGeneration as cc25": {
        **{**BART, "pad_token_id": 1, "bos_token_id": 0, "add_final_layer_norm": True, "normalize_before": True},
        **{"normalize_embedding": True, "scale_embedding": True, "num_hidden_layers": 2, "classif_dropout": 0.0},
    },
    "MBartForConditionalGeneration as mBART-50": {**BART, "activation_function": "relu", "scale_embedding": True},
    "MBartForConditionalGeneration deep": {**BART, "encoder_layers": 4, "decoder_attention_heads": 2, "vocab_size": 48},
    "MarianMTModel as OPUS-MT": {**MARIAN, **OPUS, "decoder_vocab_size": VOCABULARY, "num_hidden_layers": 2},
    "MarianMTModel as OPUS-MT big": {**MARIAN, **OPUS, "encoder_ffn_dim": 64, "activation_function": "relu"},
    "MarianMTModel deep": {
        **MARIAN,
        **OPUS,
        "encoder_layers": 6,
        "encoder_attention_heads": 8,
        "scale_embedding": False,
    },
    "M2M100ForConditionalGeneration as M2M-100 418M": {
        **{**BART, "pad_token_id": 1, "scale_embedding": True, "encoder_layerdrop": 0.05, "decoder_layerdrop": 0.05},
        **{"attention_dropout": 0.1, "early_stopping": True, "num_beams": 5, "vocab_size": 48},
    },
    "M2M100ForConditionalGeneration as NLLB": {
        **{**BART, "pad_token_id": 1, "scale_embedding": True, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
        **{"num_hidden_layers": 2, "max_length": 200, "tokenizer_class": "NllbTokenizer", "vocab_size": 46},
    },
    "M2M100ForConditionalGeneration deep": {**BART, "pad_token_id": 1, "encoder_layers": 4, "decoder_layers": 1},
    "T5ForConditionalGeneration as T5 3B": {**T5, "num_heads": 8, "n_positions": 512, "output_past": True},
    "T5ForConditionalGeneration as T5 1.1 small untied": {**T5, **GATED, "num_heads": 3, "dropout_rate": 0.0},
    "T5ForConditionalGeneration as ByT5 untied": {**T5, **GATED, "num_layers": 3, "num_decoder_layers": 1},
    "T5ForConditionalGeneration as CodeT5": {**T5, "vocab_size": 44, "layer_norm_epsilon": 1e-3},
    "MT5ForConditionalGeneration as mT5 small untied": {**T5, **GATED, "num_heads": 3, "classifier_dropout": 0.0},
    "MT5ForConditionalGeneration tied": {**T5, "feed_forward_proj": "gated-gelu", "vocab_size": 48},
    "MT5ForConditionalGeneration without a gate": {**T5, "feed_forward_proj": "relu", "num_decoder_layers": 1},
    "MT5ForConditionalGeneration deep untied": {**T5, **GATED, "num_layers": 4, "num_decoder_layers": 1, "d_kv": 3},
    "T5GemmaForConditionalGeneration as 9B-2B": {
        **{**GEMMA, "num_hidden_layers": 2},
        "encoder": {**WIDER, "num_hidden_layers": 3, "intermediate_size": 40, "head_dim": 6},
    },
    "T5GemmaForConditionalGeneration as 2B-2B": {**GEMMA, "num_hidden_layers": 2, "vocab_size": 48, "head_dim": 4},
    "T5GemmaForConditionalGeneration of one head": {**GEMMA, "num_hidden_layers": 1, "num_key_value_heads": 1},
    "T5GemmaForConditionalGeneration without caps": {
        **{**GEMMA, "num_hidden_layers": 2, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    },
    "WhisperForConditionalGeneration as tiny": {
        **{**WHISPER, "apply_spec_augment": False, "begin_suppress_tokens": [3, 2], "classifier_proj_size": 256},
        **{"forced_decoder_ids": [[1, 4]], "mask_time_prob": 0.05, "max_length": 448, "num_hidden_layers": 2},
        **{"scale_embedding": True, "suppress_tokens": [5, 6], "use_weighted_layer_sum": False},
    },
    "ViTForImageClassification as ViT-B/16": {
        **{**VIT, "num_labels": 5, "image_size": 8, "encoder_stride": 4, "layer_norm_eps": 1e-12, "qkv_bias": True},
        **{"attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1, "initializer_range": 0.02},
    },
    "ViTModel as ViT-B/16-224-in21k": {**VIT, "num_attention_heads": 2, "num_hidden_layers": 3},
    "DeiTForImageClassificationWithTeacher as DeiT": {
        **{**VIT, "num_labels": 4, "encoder_stride": 4, "layer_norm_eps": 1e-12, "qkv_bias": True},
    },
    "Dinov2Model as DINOv2 small": {
        **{**DINO, "apply_layernorm": True, "drop_path_rate": 0.0, "layerscale_value": 1.0, "image_size": 20},
        **{"out_features": ["stage2"], "out_indices": [2], "reshape_hidden_states": True, "mlp_ratio": 4},
        **{"stage_names": ["stem", "stage1", "stage2"], "hidden_dropout_prob": 0.0, "use_swiglu_ffn": False},
    },
    "Dinov2WithRegistersModel as DINOv2 small": {**DINO, "image_size": 20, "num_register_tokens": 4},
}
