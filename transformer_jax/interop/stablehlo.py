"""A model for programs without this package: StableHLO with a free number of rows, by `jax.export`.

Every program takes the parameters, a dictionary of arrays by our names, first:

    forward   the outputs for whole texts (of an encoder-decoder: source, its lengths, target)
    start     of models that write: the logits behind prompts (padded on the left, and their lengths), or None behind
              sources (padded on the right, and their lengths), and a cache
    step      a cache and the next token of every row; the logits behind it and the next cache

Logits are of the next token. An encoder-decoder's first token is its start token. A model of pictures takes pixels of
uint8, `[rows, height, width, channels]`, in place of tokens and their lengths.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array

from transformer_jax.models.decoder import Decoder, DecoderConfig
from transformer_jax.models.decoder_only import DecoderOnlyConfig
from transformer_jax.nn.inputs import Patches
from transformer_jax.nn.kernels import PLAIN
from transformer_jax.nn.parameters import named_parameters, replace_parameters

MOST = 2**20
"""Tokens, where the positions have no end."""
PLATFORMS = ("cpu", "cuda", "tpu")
Cache = dict[str, Any]
"""The arrays of a cache, by number."""


def export_programs(
    config: Any, length: int, *, new_tokens: int = 0, platforms: Sequence[str] = PLATFORMS
) -> dict[str, export.Exported]:
    """The programs of a model by name, for texts in arrays `length` tokens wide; `new_tokens` (0: `length`) may follow.

    For pictures, `length` is pixels along each side.

    A cache has no room for more, and `step` may not be called more often. Parameters are float32. Attention is computed
    without kernels of one platform. Raises ValueError for lengths that the model's positions do not reach.
    """
    portable = {"attention_kernel": PLAIN, "remat": False}
    config = replace(config, **portable)
    if getattr(config, "encoder", None) is not None:
        config = replace(config, encoder=replace(config.encoder, **portable))
    model = jax.eval_shape(lambda: config.build(0))
    parameters = jax.tree.map(lambda each: jax.ShapeDtypeStruct(each.shape, each.dtype), named_parameters(model))
    (rows,) = export.symbolic_shape("rows")
    text, lengths = jax.ShapeDtypeStruct((rows, length), jnp.int32), jax.ShapeDtypeStruct((rows,), jnp.int32)
    source: tuple[Any, ...] = text, lengths
    if isinstance(config.input, Patches):
        source = (jax.ShapeDtypeStruct((rows, length, length, config.input.channels), jnp.uint8),)

    def with_parameters(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda parameters, *arrays: function(replace_parameters(model, parameters), *arrays)

    def exported(function: Callable[..., Any], *arrays: Any) -> export.Exported:
        return export.export(jax.jit(with_parameters(function)), platforms=platforms)(parameters, *arrays)

    _check_reach(config, length)
    if not isinstance(config, DecoderConfig):
        return {"forward": exported(_encode, *source)}
    prompted = isinstance(config, DecoderOnlyConfig)
    capacity = (length if prompted else 0) + (new_tokens or length)
    _check_reach(config, capacity)
    begin = partial(_read_prompts if prompted else _read_sources, capacity=capacity)
    _, cache = jax.eval_shape(with_parameters(begin), parameters, *source)
    structure = jax.tree.structure(cache)

    def start(model: Decoder, *arrays: Array) -> tuple[Array | None, Cache]:
        logits, cache = begin(model, *arrays)
        return logits, _by_number(cache)

    def step(model: Decoder, cache: Cache, tokens: Array) -> tuple[Array, Cache]:
        logits, new = model.extend(tokens[:, None], jax.tree.unflatten(structure, cache.values()))
        return logits[:, -1, : model.embedding.vocab_size], _by_number(new)

    return {
        "forward": exported(_decode, text) if prompted else exported(_translate, *source, text),
        "start": exported(start, *source),
        "step": exported(step, _by_number(cache), lengths),
    }


def _check_reach(config: Any, tokens: int) -> None:
    reach = MOST if config.reach() is None else config.reach()
    if tokens > reach:
        raise ValueError(f"the model reaches {reach:,} tokens, not {tokens:,}: choose a smaller length")


def _encode(model: Any, source: Array, lengths: Array | None = None) -> Array:
    return model.predict(model.encode(source, lengths=lengths))


def _decode(model: Any, tokens: Array) -> Array:
    return model(tokens)[..., : model.embedding.vocab_size]


def _translate(model: Any, source: Array, *lengths_and_target: Array) -> Array:
    *lengths, target = lengths_and_target
    return model(source, target, source_lengths=lengths[0] if lengths else None)[..., : model.embedding.vocab_size]


def _read_prompts(model: Any, tokens: Array, lengths: Array, *, capacity: int) -> tuple[Array, Any]:
    logits, cache = model.prefill(tokens, lengths, model.start_cache(tokens.shape[0], capacity))
    return logits[..., : model.embedding.vocab_size], cache


def _read_sources(model: Any, source: Array, lengths: Array | None = None, *, capacity: int) -> tuple[None, Any]:
    return None, model.start_cache(model.encode(source, source_lengths=lengths), capacity)


def _by_number(cache: Any) -> Cache:
    return {f"{number:06}": array for number, array in enumerate(jax.tree.leaves(cache))}
