"""Random models that `transformers` writes give the same numbers here, and go back as they came."""

import dataclasses
import re
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

import transformer_jax.interop.published
from transformer_jax.interop.families import FAMILIES
from transformer_jax.interop.family import Family
from transformer_jax.interop.published import open_published, write_published
from transformer_jax.interop.tensor_files import read_directory
from transformer_jax.models.decoder_only import DecoderOnlyConfig
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.inputs import Input
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.nn.positions import Position

torch = pytest.importorskip("torch", reason="PyTorch, the implementation to compare with, is not installed")
transformers = pytest.importorskip("transformers", reason="transformers, which is compared with, is not installed")

VOCABULARY, LENGTH = 45, 12
TOKENS = np.random.default_rng(0).integers(3, VOCABULARY - 4, size=(3, LENGTH)).astype(np.int32)
LENGTHS = np.array([12, 7, 4], np.int32)
REAL = np.arange(LENGTH)[None] < LENGTHS[:, None]
SOURCE = np.random.default_rng(1).integers(3, VOCABULARY - 4, size=(3, 9)).astype(np.int32)
SOURCE_LENGTHS = np.array([9, 3, 6], np.int32)
SOURCE_REAL = np.arange(9)[None] < SOURCE_LENGTHS[:, None]
PIXELS = np.random.default_rng(2).normal(size=(3, 8, 8, 3)).astype(np.float32)
INFO = ("missing_keys", "unexpected_keys", "mismatched_keys")
TOLERANCE = 1e-4
FOLDER = Path(transformer_jax.interop.published.__file__).parent
PAGE = Path(__file__).resolve().parents[2] / "docs" / "INTEROP.md"
HEAD = """\
# Families of published models

Written by `tests/interop/test_families.py`, which has `transformers` write random small models of every class and
compares hidden states of all layers and the head's outputs; errors are the largest ones, over the largest number if
that is above 1, and may be 1e-4 at most. Each case goes back to the same tensors, which `transformers` loads. Fields
are those of `model` that differ from the paper's, sizes and rates left out. How to add a family:
[adding_a_family.md](adding_a_family.md).

| `model_type` | classes that are read | fields of the model | cases | error of outputs | of hidden states |
|---|---|---|---|---|---|
"""
UNTOLD = {"head", "initializer", "num_kv_heads", "head_dim", "num_decoder_layers", "source_vocab_size", "encoder"}
FOUND: dict[str, "Found"] = {}


class Found(NamedTuple):
    """What a case has shown."""

    family: Family
    fields: set[str]
    hidden: float
    outputs: float


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


def rope(kind="default", theta=10_000.0, **others):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **others}}


LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
VIT = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24, "num_hidden_layers": 2}
VIT |= {"image_size": 8, "patch_size": 4}
DINO = {**{key: value for key, value in VIT.items() if key != "intermediate_size"}, "mlp_ratio": 2}
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
    "ViTForImageClassification": {**VIT, "num_labels": 3},
    "ViTForImageClassification tanh": {**VIT, "num_labels": 3, "qkv_bias": False, "hidden_act": "gelu_new"},
    "ViTModel": {**VIT, "patch_size": 2, "pooler_act": "relu"},
    "Dinov2Model": DINO,
    "Dinov2Model smaller": {**DINO, "image_size": 28, "qkv_bias": False},
    "Dinov2Model gated": {**DINO, "use_swiglu_ffn": True, "hidden_act": "silu"},
    "Dinov2WithRegistersModel": {**DINO, "image_size": 12, "num_register_tokens": 3},
    "MT5ForConditionalGeneration": {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}


def random_model(case):
    """A model of theirs whose every parameter is random."""
    kind = getattr(transformers, case.split()[0])
    sizes = CASES[case] if "image_size" in CASES[case] else {**SPECIAL, **CASES[case]}
    if case.startswith("T5Gemma"):  # a configuration of two
        side, others = transformers.T5GemmaModuleConfig, sizes.pop("encoder", {})
        encoder = side(**{**sizes, **others})
        decoder = side(**sizes, is_decoder=True, cross_attention_hidden_size=16)
        sizes = {"encoder": encoder, "decoder": decoder, "vocab_size": VOCABULARY}
    config = kind.config_class(**sizes)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = kind(config).eval()
    if case == "T5ForConditionalGeneration untied":  # which is tied until a checkpoint has another matrix
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    with torch.no_grad():
        for parameter in filter(lambda each: each.requires_grad, model.parameters()):
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.2))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.copy_(torch.randn_like(model.final_logits_bias))
    return model


def their_outputs(model):
    """Their hidden states after every layer, the last ones of text with the final norm, and what their head says."""
    tokens, mask = torch.tensor(TOKENS.astype(np.int64)), torch.tensor(REAL.astype(np.int64))
    inputs = {"input_ids": tokens, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        source, real = torch.tensor(SOURCE.astype(np.int64)), torch.tensor(SOURCE_REAL.astype(np.int64))
        inputs = {"input_ids": source, "attention_mask": real, "decoder_input_ids": tokens}
    if hasattr(model.config, "image_size"):
        inputs = {"pixel_values": torch.tensor(PIXELS.transpose(0, 3, 1, 2))}
    with torch.no_grad():
        found = model(**inputs, output_hidden_states=True)
    states = ("encoder_hidden_states", "decoder_hidden_states", "hidden_states")
    hidden = [state.numpy() for name in states for state in (found.get(name) or ())[1:]]
    names = ("logits", "prediction_logits", "seq_relationship_logits", "sop_logits", "start_logits", "end_logits")
    of_dino = model.config.model_type.startswith("dinov2")  # its pooler is the first of these
    names += ("last_hidden_state",) if of_dino else ("pooler_output",)
    outputs = [found[name].numpy() for name in names if found.get(name) is not None]
    return hidden, outputs or hidden[-1:]


def our_outputs(model, config):
    """The same of ours."""
    tokens, lengths = jnp.array(TOKENS), jnp.array(LENGTHS)
    if isinstance(config, EncoderDecoderConfig):
        memory = model.encode(jnp.array(SOURCE), source_lengths=jnp.array(SOURCE_LENGTHS), intermediates=True)
        decoded = model.decode(tokens, memory, intermediates=True)
        encoded = [*np.asarray(memory.intermediates.hidden[:-1]), np.asarray(memory.vectors)]
        outputs = [model.logits(decoded.vectors)]
    elif isinstance(config, DecoderOnlyConfig):
        encoded, decoded = [], model.decode(tokens, intermediates=True)
        outputs = [model.logits(decoded.vectors)]
    else:
        read = {"lengths": lengths} if config.reads_text else {}
        encoded, decoded = [], model.encode(tokens if read else PIXELS, **read, intermediates=True)
        outputs = [model.predict(decoded)]
        if config.head == "pretraining":
            outputs.append(model.predict_next(decoded))
    hidden = [*encoded, *np.asarray(decoded.intermediates.hidden[:-1]), np.asarray(decoded.vectors)]
    if not config.reads_text:  # they give the last one without the final norm
        hidden[-1] = np.asarray(decoded.intermediates.hidden[-1])
    return hidden, [np.asarray(output) for output in outputs]


def compare(ours, theirs):
    """Numbers at real tokens, and of real words alone, are the same; returns how much they differ at most."""
    if theirs.ndim == 3 and theirs.shape[1] in (LENGTH, SOURCE.shape[1]):
        real = REAL if theirs.shape[1] == LENGTH else SOURCE_REAL
        ours, theirs = ours[real], theirs[real]
    ours = ours[..., : theirs.shape[-1]]
    assert np.abs(theirs).max() > 0.1, "numbers worth comparing"
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * max(1, np.abs(theirs).max()))
    return float(np.abs(ours - theirs).max() / max(1, np.abs(theirs).max()))


def marked(case):
    """Heads that BERT's test has, on stacks that other cases have, run with --slow."""
    of_bert = re.match("(Roberta|XLMRoberta|DistilBert|Albert|Electra|ModernBert)For(Seq|Token|Question)", case)
    return pytest.param(case, marks=pytest.mark.slow if of_bert else [])


@pytest.mark.parametrize("case", map(marked, CASES))
def test_a_family_gives_the_numbers_of_transformers_and_goes_back_as_it_came(case, tmp_path):
    model = random_model(case)
    model.save_pretrained(tmp_path / "theirs")
    published = open_published(tmp_path / "theirs")
    ours = published.model()
    hidden, outputs = their_outputs(model)
    if "QuestionAnswering" in case:
        outputs = [np.stack(outputs, axis=-1)]
    if case.startswith("ElectraForPreTraining"):
        outputs = [outputs[0][..., None]]
    our_hidden, our_results = our_outputs(ours, published.config)
    assert len(our_hidden) == len(hidden) and len(our_results) == len(outputs) > 0
    errors = [
        max(compare(one, other) for one, other in zip(one_side, other_side, strict=True))
        for one_side, other_side in ((our_hidden, hidden), (our_results, outputs))
    ]
    FOUND[case] = Found(published.family, fields_of(published.config), *errors)
    told = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if f"`{published.family.name}`" in line)
    missing = [field for field in FOUND[case].fields if f"`{field}`" not in told]
    assert not missing, f"{PAGE.name} is written anew by this file, run in one process with --slow"

    name = case.split()[0]
    parameters = named_parameters(ours)
    written = write_published(
        tmp_path / "ours",
        published.config,
        parameters,
        family=published.family.name,
        architecture=name,
        labels=published.labels(),
        extra={key: value for key, value in published.keys.items() if key.endswith("token_id")},
    )
    assert written == name
    theirs, again = read_directory(tmp_path / "theirs"), read_directory(tmp_path / "ours")
    assert theirs.keys() - published.family.ignored == again.keys()
    assert all(np.array_equal(theirs[key], again[key]) and theirs[key].dtype == again[key].dtype for key in again)
    back, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True, attn_implementation="eager")
    assert {name for key in INFO for name in info[key]} <= {*published.family.ignored}
    for one, other in zip(their_outputs(back.eval())[1], their_outputs(model)[1], strict=True):
        np.testing.assert_array_equal(one, other)


def fields_of(config):
    """The fields of a configuration that differ from the paper's model, sizes and rates left out."""
    plain = type(config)()
    kinds = bool | str | tuple | Position | Input | None
    names = {field.name for field in dataclasses.fields(config) if isinstance(getattr(plain, field.name), kinds)}
    return {name for name in names - UNTOLD if getattr(config, name) != getattr(plain, name)}


def page():
    """docs/INTEROP.md, from what was found."""
    rows = []
    for name, family in FAMILIES.items():
        found = [one for one in FOUND.values() if one.family is family]
        classes = ", ".join(dict.fromkeys(f"`{one.name}`" for one in family.architectures))
        used = ", ".join(f"`{each}`" for each in sorted(set().union(*(one.fields for one in found))))
        worst = (f"{max(getattr(one, of) for one in found):.0e}" for of in ("outputs", "hidden"))
        rows.append((f"`{name}`", classes, used, str(len(found)), *worst))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(FOLDER.glob("*.py"))}
    files = ", ".join(f"{name} {count}" for name, count in lines.items())
    return f"{HEAD}{table}\n\nLines of the files in `transformer_jax/interop`: {files}.\n"


def without_numbers(text):
    return re.sub(r"\d+(e[-+]\d+)?", "", text)


def test_the_page_on_families_has_what_was_found():
    if FOUND.keys() != CASES.keys():
        pytest.skip("the page is written where all cases run in one process, with --slow")
    there = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    if without_numbers(there) != without_numbers(page()):
        PAGE.write_text(page(), encoding="utf-8")
        pytest.fail(f"{PAGE.name} was of other families, and has been written anew: look at it and keep it")


def test_every_family_is_compared():
    compared = {case.split()[0] for case in CASES}
    assert {one.name for family in FAMILIES.values() for one in family.architectures} <= compared


def test_the_examples_on_adding_a_family_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).resolve().parents[2] / "docs" / "adding_a_family.md").read_text(encoding="utf-8")
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(example, {})
    printed = capsys.readouterr().out
    assert "model.layers.0.self_attn.dense.weight" in printed and "decoder/1/self_attention/query/kernel" in printed
    assert open_published(tmp_path / "theirs").family.name == "phi"
