"""How a published model's own files have it generate, as far as fields of a task here express that."""

import dataclasses
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, TypeVar

from transformer_jax.data.fields import check_ranges
from transformer_jax.data.lines import read_json
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.decoding.beam import Stopping
from transformer_jax.interop.config_keys import Keys
from transformer_jax.interop.published import CONFIG, Published
from transformer_jax.tasks.generator import Generation
from transformer_jax.tasks.language_modelling import LanguageModelling
from transformer_jax.tasks.task import Task
from transformer_jax.tasks.transcription import Transcribing, Transcription
from transformer_jax.tasks.translation import Translation

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
    "guidance_scale": (1,),
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
PASSED = """
_commit_hash _from_model_config assistant_confidence_threshold assistant_early_exit assistant_lookbehind cache_config
compile_config disable_compile is_assistant low_memory max_matching_ngram_size num_assistant_tokens
num_assistant_tokens_schedule output_logits prefill_chunk_size prompt_lookup_num_tokens target_lookbehind
"""
"""Keys that, beside those of NO_EFFECT, change no token: of speed, and of what is returned besides."""
UNSAID_LENGTH = 20
"""The max_length of a file that says nothing of it."""
UNSAID_TOP_K = 50
"""The top_k of sampling where a file says nothing of it."""
STOPPING: dict[Any, Stopping] = {True: "fairseq", False: "transformers", "never": "tensor2tensor"}
"""What early_stopping is called here."""
T = TypeVar("T", bound=Task)


def with_generation(
    task: T, published: Published, tokenizer: Tokenizer, longest: int, ignore: Collection[str] = ()
) -> T:
    """The task with what generation_config.json (or, without it, config.json) says.

    What the first leaves out is as in transformers: one beam, no sampling. What the second leaves out stays as it is.
    `longest` are the tokens that a text can have here, `tokenizer` names them. Raises ValueError for a key, unless it
    is one to `ignore`, that asks for what the task has no field for.
    """
    if not isinstance(task, Translation | LanguageModelling | Transcription):
        return task
    path = published.directory / FILE
    stated = path.is_file()
    said = read_json(path, unique=True) if stated else published.keys
    keys = Keys({name: value for name, value in said.items() if name not in ignore})
    keys.skip(*PASSED.split())
    try:
        if isinstance(task, Transcription):
            return dataclasses.replace(task, transcribing=_transcribing(keys, tokenizer, task.transcribing))
        for name, values in NEUTRAL.items():
            keys.only(name, *(values or (None,)))
        limit = _limit(keys, longest, translates=isinstance(task, Translation))
        fields = limit | _beams(keys, stated) | _tokens(keys, tokenizer, translates=isinstance(task, Translation))
        if isinstance(task, Translation):
            _check_decoding(keys)
            start = {"target_start": fields.pop("target_start")} if "target_start" in fields else {}
            changes: dict[str, Any] = {"decoding": dataclasses.replace(task.decoding, **fields), **start}
        else:
            fields |= _generation(keys, task.generation, stated)
            changes = {"generation": dataclasses.replace(task.generation, **fields)}
        if stated and (left := keys.left()):
            raise ValueError(f"{left[0]} is not known here")
        changed = dataclasses.replace(task, **changes)
        check_ranges(changed, "task")
    except (OverflowError, TypeError, ValueError) as error:
        path = path if stated else published.directory / CONFIG
        raise ValueError(f"{path}: {error}; transformer-jax import --ignore KEY passes over a key") from error
    return changed


def _tokens(keys: Keys, tokenizer: Tokenizer, *, translates: bool) -> dict[str, Any]:
    """The fields that name tokens; ValueError for words of several that may not occur, and for what is no token."""
    end, first = keys.values.get("eos_token_id"), keys.take("forced_bos_token_id", None, int)
    ends, words = end if isinstance(end, list) else [end], keys.take("bad_words_ids", [])
    if any(not isinstance(word, list) or len(word) != 1 for word in words):
        raise ValueError(f"bad_words_ids {words} cannot be expressed here, only words of one token")
    suppressed = [*keys.take("suppress_tokens", []), *(token for (token,) in words)]
    start = keys.take("decoder_start_token_id", None, int) if translates else None
    if start not in (None, tokenizer.bos_id):
        raise ValueError(f"decoder_start_token_id {start} is not {tokenizer.bos_id}, which config.json says")
    if tokenizer.eos_id in suppressed:
        raise ValueError(f"suppress_tokens or bad_words_ids have the end token {tokenizer.eos_id}: no text could end")
    # These are never generated.
    suppressed = [token for token in suppressed if token not in (tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id)]

    names = partial(_names, tokenizer)
    fields: dict[str, Any] = {}
    if others := [token for token in ends if token not in (None, tokenizer.eos_id)]:
        if translates:
            raise ValueError(f"eos_token_id {end} cannot be expressed here, for translations only {tokenizer.eos_id}")
        fields["end_tokens"] = names("eos_token_id", others)
    if suppressed:
        fields["suppressed"] = names("suppress_tokens or bad_words_ids", suppressed)
    if first is not None:
        (fields["target_start"],) = names("forced_bos_token_id", [first])
    return fields


def _names(tokenizer: Tokenizer, key: str, tokens: Sequence[Any]) -> tuple[str, ...]:
    """The names of tokens; ValueError for what is no token."""
    for token in tokens:
        if type(token) is not int or not 0 <= token < tokenizer.vocab_size or not tokenizer.piece(token):
            raise ValueError(f"{key} has {token!r}, which is no token of the vocabulary")
    return tuple(dict.fromkeys(map(tokenizer.piece, tokens)))


def _transcribing(keys: Keys, tokenizer: Tokenizer, transcribing: Transcribing) -> Transcribing:
    """How a Whisper writes recordings down; of forced tokens, the language's alone is none that any prompt has."""
    codes = {name.strip("<|>"): token for name, token in keys.take("lang_to_id", {}).items()}
    forced = [token for _, token in keys.take("forced_decoder_ids", [])]
    return dataclasses.replace(
        transcribing,
        suppressed=_tokens(keys, tokenizer, translates=True).get("suppressed", ()),
        begin_suppressed=_names(tokenizer, "begin_suppress_tokens", keys.take("begin_suppress_tokens", [])),
        languages=tuple(codes) if keys.take("is_multilingual", bool(codes)) else (),
        language=next((code for code, token in codes.items() if token in forced), ""),
        latest_start=keys.take("max_initial_timestamp_index", transcribing.latest_start),
        longest=keys.take("max_length", transcribing.longest),
    )


def _limit(keys: Keys, longest: int, *, translates: bool) -> dict[str, Any]:
    """The field of a translation's limit, which counts its start tokens there, and of others none.

    Raises ValueError for a limit, of prompt and continuation together, that is not the model's own, and of a text that
    would be cut there: here its last token is the end token, which costs nothing there and what it costs here.
    """
    limit = keys.take("max_length", UNSAID_LENGTH)
    if limit == UNSAID_LENGTH or limit >= longest or "max_new_tokens" in keys.values:
        return {}
    started = 1 if keys.values.get("forced_bos_token_id") is None else 2
    if not translates or limit <= started or keys.values.get("forced_eos_token_id") is None:
        raise ValueError(f"max_length {limit} cannot be expressed here, only {longest} or more, which is no limit")
    return {"max_new_tokens": limit - started}


def _beams(keys: Keys, stated: bool) -> dict[str, Any]:
    """The fields of every text, and those of beam search if the file has it."""
    least = keys.take("min_length", 0) - 1
    least = keys.take("min_new_tokens", least)
    if keys.take("forced_bos_token_id", None, int) is not None:
        least -= 1  # which counts as generated there
    fields: dict[str, Any] = {"min_length": least} if least > 0 else {}
    if size := keys.take("no_repeat_ngram_size", 0):
        fields["no_repeat_ngram"] = size
    if "num_beams" not in keys.values and not stated:
        return fields
    beams = keys.take("num_beams", 1)
    if beams > 1:
        keys.only("do_sample", False)
        keys.only("repetition_penalty", 1)
        keys.only("early_stopping", *STOPPING)
        fields["stopping"] = STOPPING[keys.values.get("early_stopping") or False]
        fields |= {"length_rule": "length", "length_penalty": float(keys.take("length_penalty", 1.0, float))}
    return fields | {"beam_size": beams}


def _check_decoding(keys: Keys) -> None:
    """Raises ValueError for what a translation's search does not do; at its limit the end token is forced."""
    keys.only("do_sample", False)
    keys.only("repetition_penalty", 1)
    keys.only("max_new_tokens", None)
    keys.only("forced_eos_token_id", keys.values.get("eos_token_id"))


def _generation(keys: Keys, generation: Generation, stated: bool) -> dict[str, Any]:
    """The fields of a continuation alone."""
    keys.only("forced_bos_token_id", None)
    keys.only("forced_eos_token_id", None)
    keys.only("min_length", 0)  # which counts the prompt
    sampling = generation.sampling
    if keys.take("do_sample", not stated):
        top_k = keys.take("top_k", UNSAID_TOP_K if "do_sample" in keys.values else sampling.top_k)
        names = ("temperature", "top_p", "min_p")
        rates = {name: float(keys.take(name, getattr(sampling, name))) for name in names}
        sampling = dataclasses.replace(sampling, top_k=top_k, **rates)
    else:
        sampling = dataclasses.replace(sampling, temperature=0.0)
    penalty = float(keys.take("repetition_penalty", sampling.repetition_penalty))
    sampling = dataclasses.replace(sampling, repetition_penalty=penalty)
    return {"max_new_tokens": keys.take("max_new_tokens", generation.max_new_tokens), "sampling": sampling}
