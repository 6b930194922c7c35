"""How a published model's own files have it generate, as far as fields of a task here express that."""

import dataclasses
import logging
from collections.abc import Collection
from typing import Any, TypeVar

from transformer_jax.data.fields import check_ranges
from transformer_jax.interop.config_keys import Keys
from transformer_jax.interop.published import CONFIG, Published
from transformer_jax.interop.tensor_files import read_json
from transformer_jax.tasks.generator import Generation
from transformer_jax.tasks.language_modelling import LanguageModelling
from transformer_jax.tasks.task import Task
from transformer_jax.tasks.translation import Decoding, Translation

LOG = logging.getLogger(__name__)
FILE = "generation_config.json"
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "begin_suppress_tokens": ([],),
    "constraints": (),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "force_bos_token_to_be_generated": (False,),
    "force_words_ids": (),
    "forced_bos_token_id": (),
    "guidance_scale": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "renormalize_logits": (False,),
    "sequence_bias": ({}, []),
    "stop_strings": ([],),
    "token_healing": (False,),
    "top_h": (),
    "typical_p": (1,),
    "watermarking_config": (),
}
"""Keys that nothing here does, and their values that ask for nothing."""
TAKEN = """
bad_words_ids do_sample early_stopping eos_token_id forced_eos_token_id length_penalty max_length max_new_tokens min_p
num_beams repetition_penalty suppress_tokens temperature top_k top_p
"""
PASSED = """
_commit_hash _from_model_config assistant_confidence_threshold assistant_early_exit assistant_lookbehind bos_token_id
cache_config cache_implementation compile_config decoder_start_token_id disable_compile is_assistant low_memory
max_matching_ngram_size num_assistant_tokens num_assistant_tokens_schedule output_attentions output_hidden_states
output_logits output_scores pad_token_id prefill_chunk_size prompt_lookup_num_tokens remove_invalid_values
return_dict_in_generate target_lookbehind transformers_version use_cache
"""
"""Keys that change no token: of speed, of what is returned besides, of special tokens, which the tokenizer knows."""
UNSAID_LENGTH = 20
"""The max_length of a file that says nothing of it."""
UNSAID_TOP_K = 50
"""The top_k of sampling where a file says nothing of it."""
T = TypeVar("T", bound=Task)


def with_generation(task: T, published: Published, longest: int, ignore: Collection[str] = ()) -> T:
    """The task with what generation_config.json (or, without it, config.json) says; what it leaves out stays as it is.

    `longest` are the tokens that a text can have here. Raises ValueError for a key, unless it is one to `ignore`, that
    asks for what the task has no field for.
    """
    if not isinstance(task, Translation | LanguageModelling):
        return task
    path = published.directory / FILE
    said = read_json(path.read_bytes(), path) if path.is_file() else dict(published.keys)
    known = {*NEUTRAL, *TAKEN.split()}
    unknown = said.keys() - known - {*PASSED.split()} if path.is_file() else ()
    path = path if path.is_file() else published.directory / CONFIG
    keys = Keys({name: value for name, value in said.items() if name in known and name not in ignore})
    try:
        for name in sorted(unknown):
            if name not in ignore and said[name] not in (None, False, "", [], {}):
                raise ValueError(f"{name} is not known here")
        for name, values in NEUTRAL.items():
            keys.only(name, *(values or (None,)))
        _check_tokens(keys, said)
        _check_length(keys, longest)
        if isinstance(task, Translation):
            changes: dict[str, Any] = {"decoding": _decoding(keys, task.decoding)}
        else:
            changes = {"generation": _generation(keys, task.generation)}
        changed = dataclasses.replace(task, **changes)
        check_ranges(changed, "task")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}; transformer-jax import --ignore KEY passes over a key") from error
    return changed


def _check_tokens(keys: Keys, said: dict[str, Any]) -> None:
    """Raises ValueError for several end tokens, and for forbidden ones that generation may have here."""
    if isinstance(ends := keys.values.get("eos_token_id"), list) and len(ends) > 1:
        raise ValueError(f"eos_token_id {ends} cannot be expressed here, only one token that ends a text")
    # Padding and start are never generated, the end always may be.
    never = [said.get(name) for name in ("pad_token_id", "bos_token_id", "decoder_start_token_id")]
    never = [number for number in never if number is not None and number != said.get("eos_token_id")]
    for name, allowed in (("bad_words_ids", [[number] for number in never]), ("suppress_tokens", never)):
        if any(each not in allowed for each in keys.take(name, [])):
            raise ValueError(f"{name} {keys.values[name]} cannot be expressed here, only tokens of padding and start")


def _check_length(keys: Keys, longest: int) -> None:
    """Raises ValueError for a limit, of prompt and continuation together, that is not the model's own."""
    limit = keys.take("max_length", UNSAID_LENGTH)
    if limit != UNSAID_LENGTH and limit < longest and "max_new_tokens" not in keys.values:
        raise ValueError(f"max_length {limit} cannot be expressed here, only {longest} or more, which is no limit")


def _beams(keys: Keys, fields: Decoding | Generation) -> dict[str, Any]:
    """The fields of beam search, if the file has their keys."""
    beams = keys.take("num_beams", fields.beam_size)
    if beams == 1 or "num_beams" not in keys.values:
        return {"beam_size": beams}
    keys.only("do_sample", False)
    keys.only("repetition_penalty", 1)
    keys.only("early_stopping", True, False)
    # Theirs divides by length ** penalty, which is ours at 0 alone.
    keys.only("length_penalty", 0)
    if "length_penalty" in keys.values:
        return {"beam_size": beams, "length_penalty": 0.0}
    LOG.info("beams are ranked with length_penalty %s of this project, as no other is given", fields.length_penalty)
    return {"beam_size": beams}


def _decoding(keys: Keys, decoding: Decoding) -> Decoding:
    """The fields of a translation's search, at whose limit the end token is forced."""
    keys.only("do_sample", False)
    keys.only("repetition_penalty", 1)
    keys.only("max_new_tokens", None)
    keys.only("forced_eos_token_id", keys.values.get("eos_token_id"))
    return dataclasses.replace(decoding, **_beams(keys, decoding))


def _generation(keys: Keys, generation: Generation) -> Generation:
    """The fields of a continuation."""
    keys.only("forced_eos_token_id", None)
    sampling = generation.sampling
    if keys.take("do_sample", True):
        top_k = keys.take("top_k", UNSAID_TOP_K if "do_sample" in keys.values else sampling.top_k)
        names = ("temperature", "top_p", "min_p")
        rates = {name: float(keys.take(name, getattr(sampling, name))) for name in names}
        sampling = dataclasses.replace(sampling, top_k=top_k, **rates)
    else:
        sampling = dataclasses.replace(sampling, temperature=0.0)
    penalty = float(keys.take("repetition_penalty", sampling.repetition_penalty))
    sampling = dataclasses.replace(sampling, repetition_penalty=penalty)
    limit = keys.take("max_new_tokens", generation.max_new_tokens)
    return dataclasses.replace(generation, max_new_tokens=limit, sampling=sampling, **_beams(keys, generation))
