"""The families of published models that can be read and written."""

from transformer_jax.interop.bert import BERT
from transformer_jax.interop.family import Family

FAMILIES: dict[str, Family] = {family.name: family for family in (BERT,)}
"""By the `model_type` of config.json."""
