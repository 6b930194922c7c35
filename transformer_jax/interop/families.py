"""The families of published models that can be read and written."""

from transformer_jax.interop.albert import ALBERT
from transformer_jax.interop.bart import BART, M2M_100, MARIAN, MBART
from transformer_jax.interop.bert import BERT
from transformer_jax.interop.distilbert import DISTILBERT
from transformer_jax.interop.electra import ELECTRA
from transformer_jax.interop.family import Family
from transformer_jax.interop.gemma import GEMMA2, GEMMA3
from transformer_jax.interop.gpt2 import GPT2
from transformer_jax.interop.gpt_neox import GPT_NEOX
from transformer_jax.interop.llama import LLAMA
from transformer_jax.interop.mistral import MISTRAL
from transformer_jax.interop.modernbert import MODERNBERT
from transformer_jax.interop.olmo2 import OLMO2
from transformer_jax.interop.phi import PHI
from transformer_jax.interop.qwen import QWEN2, QWEN3
from transformer_jax.interop.roberta import ROBERTA, XLM_ROBERTA
from transformer_jax.interop.smollm3 import SMOLLM3
from transformer_jax.interop.t5 import MT5, T5
from transformer_jax.interop.t5gemma import T5GEMMA
from transformer_jax.interop.vit import DEIT, DINOV2, DINOV2_WITH_REGISTERS, VIT
from transformer_jax.interop.whisper import WHISPER

ENCODERS = (BERT, ROBERTA, XLM_ROBERTA, DISTILBERT, ALBERT, ELECTRA, MODERNBERT)
PICTURES = (VIT, DEIT, DINOV2, DINOV2_WITH_REGISTERS)
DECODERS = (GPT2, GPT_NEOX, LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA2, GEMMA3, OLMO2, SMOLLM3, PHI)
ENCODER_DECODERS = (BART, MBART, MARIAN, M2M_100, T5, MT5, T5GEMMA, WHISPER)
FAMILIES: dict[str, Family] = {family.name: family for family in (*ENCODERS, *PICTURES, *DECODERS, *ENCODER_DECODERS)}
"""By the `model_type` of config.json; a model is written as the first that can express it."""
