"""The keys of a published config.json, from which a family takes those that it can express."""

import logging
from collections.abc import Collection, Mapping
from typing import Any

from transformer_jax.data.fields import TYPE_NAMES
from transformer_jax.data.nearest import did_you_mean

LOG = logging.getLogger(__name__)
REQUIRED: Any = object()
WITHOUT_EFFECT = """
_attn_implementation _attn_implementation_autoset _name_or_path _num_labels architectures auto_map bad_words_ids
begin_suppress_tokens bos_token_id cache_implementation chunk_size_feed_forward cls_token_id custom_pipelines
decoder_start_token_id directionality diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size
eos_token_id exponential_decay_length_penalty finetuning_task force_bos_token_to_be_generated forced_bos_token_id
forced_eos_token_id gradient_checkpointing id2label init_std initializer_cutoff_factor initializer_factor
initializer_range is_encoder_decoder label2id language length_penalty mask_token_id max_length max_new_tokens
min_length min_p model_type no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
output_attentions output_hidden_states output_past output_scores pad_token_id pooler_fc_size
pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type prefix pretraining_tp problem_type
pruned_heads remove_invalid_values repetition_penalty return_dict return_dict_in_generate
sbert_ce_default_activation_function sentence_transformers sep_token_id suppress_tokens task_specific_params
temperature tf_legacy_loss tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config
transformers_version typical_p unk_token_id use_bfloat16 use_cache
"""
NO_EFFECT = frozenset(WITHOUT_EFFECT.split())
"""Keys that change no number of a forward pass: of training from nothing, of generation, of other programs."""
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Our name of each of theirs."""
THEIR_ACTIVATIONS = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
"""The first of their names for each of ours."""

SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "intermediate_size": "d_ff",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "max_position_embeddings": "max_length",
}
"""The keys that most families have for these fields."""


class Keys:
    """A config.json, and the names of the tensors that go with it.

    What a family takes is known to it; `left` says what remains.
    """

    def __init__(self, values: Mapping[str, Any], tensors: Collection[str] = ()):
        self.values = dict(values)
        self.tensors = tensors
        self._taken: set[str] = set()

    def take(self, name: str, default: Any = REQUIRED, kind: type | None = None) -> Any:
        """The value of a key, of the type of its default or of another `kind`; ValueError if it is neither."""
        self._taken.add(name)
        value = self.values.get(name)
        if value is None:
            if default is REQUIRED:
                raise ValueError(f"it lacks {name}")
            return default
        kind = kind or (int if default is REQUIRED or default is None else type(default))
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool) != (kind is bool):
            raise ValueError(f"{name} is {TYPE_NAMES[kind]}, not {value!r}")
        return value

    def fields(self, table: Mapping[str, str], **defaults: Any) -> dict[str, Any]:
        """Our fields by a table from their keys to our fields; `defaults` are those of keys that may lack."""
        return {ours: self.take(theirs, defaults.get(theirs, REQUIRED)) for theirs, ours in table.items()}

    def only(self, name: str, *allowed: Any) -> None:
        """Accepts a key with one of these values, or none at all; ValueError for others, which nothing here does."""
        self._taken.add(name)
        if name in self.values and self.values[name] is not None and self.values[name] not in allowed:
            known = " or ".join(map(repr, allowed))
            raise ValueError(f"{name} {self.values[name]!r} cannot be expressed here, only {known}")

    def activation(self, name: str, default: str = "gelu") -> str:
        """Our name of an activation."""
        value = self.take(name, default)
        if value not in ACTIVATIONS:
            raise ValueError(f"{name} {value!r} is no activation here{did_you_mean(value, ACTIVATIONS)}")
        return ACTIVATIONS[value]

    def in_training(self, name: str, ours: float = 0.0) -> None:
        """Passes over a rate of something done in training alone, which is `ours` here; says so where it differs."""
        if (rate := self.take(name, float(ours))) != ours:
            LOG.info("%s is %s here when the model is trained, not %s", name, ours, rate)

    def skip(self, *names: str) -> None:
        """Passes over keys that have no effect in this family."""
        self._taken.update(names)

    def left(self) -> list[str]:
        """The keys that were not taken and have, or may have, an effect."""
        known = self._taken | NO_EFFECT
        empty = {
            name for name, value in self.values.items() if value is None or value is False or value in ("", [], {})
        }
        return sorted(self.values.keys() - known - empty)


def written(table: Mapping[str, str], config: Any) -> dict[str, Any]:
    """Their keys with the values of our fields, by the table of `Keys.fields`."""
    return {theirs: getattr(config, ours) for theirs, ours in table.items()}
