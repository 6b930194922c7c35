"""A directory with a published model: config.json, tensors in safetensors and the files of a tokenizer."""

import dataclasses
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from transformer_jax.data.fields import check_ranges
from transformer_jax.data.lines import read_json
from transformer_jax.interop.config_keys import Keys
from transformer_jax.interop.families import FAMILIES
from transformer_jax.interop.family import Architecture, CannotExpressError, Family
from transformer_jax.interop.rules import Layout, Shapes, check_tensors, join, lay_out, some, split
from transformer_jax.interop.tensor_files import INDEX, SINGLE, Tensor, read_directory, write_directory
from transformer_jax.interop.vit import PREPROCESSOR, with_preprocessor
from transformer_jax.nn.parameters import replace_parameters

LOG = logging.getLogger(__name__)
CONFIG = "config.json"
MOST_SHARED = 1_000
"""Layers that one set of parameters is for, at most."""
Tensors = Mapping[str, np.ndarray]
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Source(NamedTuple):
    """A parameter in the files of a published model."""

    shape: tuple[int, ...]
    layers: list[np.ndarray]
    """Of every layer, or one alone, as views of the files."""
    dtype: np.dtype[Any]

    def part(self, index: tuple[slice, ...]) -> np.ndarray:
        """A part of it, copied from the files; rows that pad a vocabulary are zero."""
        sizes = [len(range(*one.indices(size))) for one, size in zip(index, self.shape, strict=True)]
        array, stacked = np.zeros(sizes, self.dtype), len(self.shape) > self.layers[0].ndim
        rows = zip(array, self.layers[index[0]], strict=True) if stacked else [(array, self.layers[0])]
        for target, layer in rows:
            chosen = layer[index[1:] if stacked else index]
            # Cast in the order of the file: twice as fast as together with what transposes.
            target[tuple(map(slice, chosen.shape))] = chosen.astype(self.dtype, order="K")
        return array

    def whole(self) -> np.ndarray:
        """All of it."""
        return self.part(tuple(map(slice, self.shape)))


@dataclass(frozen=True)
class Published:
    """A published model, its tensors still in their files."""

    directory: Path
    family: Family
    architecture: Architecture
    keys: Mapping[str, Any]
    """config.json."""
    config: Any
    """The same as a configuration of ours."""
    layout: Mapping[str, Layout]
    tensors: Mapping[str, np.ndarray]
    """By the names of the family's rules, as views of the files."""

    def parameters(self, shardings: Mapping[str, Any] | None = None, dtype: Any = "float32") -> dict[str, Array]:
        """The parameters by our names, on one device or as sharded; `dtype` None keeps the published type.

        What a device holds is copied to it from the file alone, so that no array is ever whole on the host.
        """
        sources = self._sources(dtype)
        if shardings is None:
            return {name: jnp.asarray(source.whole()) for name, source in sources.items()}

        def make(source: "Source", sharding: Any) -> Array:
            # Shard by shard, so that no more than one is in memory twice.
            shards, last, array = [], None, np.zeros(0)
            for device, index in sharding.addressable_devices_indices_map(source.shape).items():
                array = array if index == last else source.part(index)
                shards.append(jax.block_until_ready(jax.device_put(array, device)))
                last = index
            return jax.make_array_from_single_device_arrays(source.shape, sharding, shards)

        return {name: make(source, shardings[name]) for name, source in sources.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """The parameters by our names in float32, on the host."""
        return {name: source.whole() for name, source in self._sources("float32").items()}

    def _sources(self, dtype: Any) -> "dict[str, Source]":
        """Where the parameters are read from, by our names."""
        shapes, views = shapes_of(self.config), {}
        for name, layout in self.layout.items():
            views |= split(layout, self.tensors[name], shapes)
        layers: dict[str, list[np.ndarray]] = {name: [] for name in shapes.padded}
        for each, (name, _) in shapes.slices.items():
            layers[name].append(views[each])
        return {
            name: Source(shapes.padded[name], parts, parts[0].dtype if dtype is None else np.dtype(dtype))
            for name, parts in layers.items()
        }

    def model(self, shardings: Mapping[str, Any] | None = None, dtype: Any = "float32") -> Any:
        """The model with its parameters."""
        return replace_parameters(jax.eval_shape(lambda: self.config.build(0)), self.parameters(shardings, dtype))

    def labels(self) -> list[str]:
        """The names of a classification's outputs; ValueError for names that texts or files could not have."""
        names = self.keys.get("id2label")
        count = getattr(self.config, "num_outputs", 0)
        if isinstance(names, dict) and sorted(names) == sorted(map(str, range(count))):
            labels = [names[str(number)] for number in range(count)]
            for label in labels:
                if not isinstance(label, str) or not label.isprintable() or label.strip() != label or not label:
                    raise ValueError(f"{self.directory / CONFIG}: the label {label!r} is no text on one line")
                if self.config.head == "tokens" and len(label.split()) > 1:
                    raise ValueError(f"{self.directory / CONFIG}: the label {label!r} of a word has white space")
            if len({*labels}) < count:
                raise ValueError(f"{self.directory / CONFIG}: two outputs have one label in id2label")
            return labels
        return [f"LABEL_{number}" for number in range(count)]


def is_published(directory: Path) -> bool:
    """Whether a directory seems to hold a published model."""
    return (directory / CONFIG).is_file()


def shapes_of(config: Any) -> Shapes:
    """The shapes of a configuration's parameters."""
    unpadded = dataclasses.replace(config, vocab_multiple=1)
    return Shapes(jax.eval_shape(lambda: config.build(0)), jax.eval_shape(lambda: unpadded.build(0)))


def open_published(directory: Path, *, dtype: str = "float32", ignore: Collection[str] = ()) -> Published:
    """Reads a directory's configuration and checks its tensors, whose values are not read yet.

    `dtype` is what the model computes in, whatever its files have; `ignore` has keys of config.json that are to be
    passed over. Raises FileNotFoundError or ValueError for a directory
    that holds no such model, and for a model that cannot be expressed here.
    """
    values, family, architecture, config, tensors = _described(directory, ignore)
    config = dataclasses.replace(config, dtype=dtype)
    try:
        shapes = shapes_of(config)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{directory / CONFIG}: {error}") from error
    layout = lay_out((*family.rules, *family.rules_for(config), *architecture.rules), shapes, family.name)
    computed = family.computed(config)
    over = check_tensors(layout, tensors, family.optional() | computed.keys(), str(directory))
    _check_copies(family, tensors, [name for name in over if name not in computed], directory)
    for name in computed.keys() & tensors.keys():
        if tensors[name].shape != computed[name].shape or not np.allclose(tensors[name], computed[name], atol=2e-3):
            raise ValueError(f"{directory} has a {name} that differs from what is computed in its place here")
    return Published(directory, family, architecture, values, config, layout, tensors)


def published_config(directory: Path) -> Any:
    """Our configuration of a published model, found without JAX's devices; raises what `open_published` raises."""
    return _described(directory, ())[3]


def _described(directory: Path, ignore: Collection[str]) -> tuple[dict[str, Any], Family, Architecture, Any, Tensors]:
    """Keys of config.json, their family, architecture and configuration, and tensors by the names of the rules."""
    if not (directory / CONFIG).is_file():
        reason = f"has no {CONFIG}, so it is no published model" if directory.is_dir() else "does not exist"
        raise FileNotFoundError(f"{directory} {reason}")
    values = read_json(directory / CONFIG, unique=True)
    family = _family(values, directory)
    if not any((directory / name).is_file() for name in (SINGLE, INDEX)):
        pickles = sorted(path.name for pattern in PICKLES for path in directory.glob(pattern))
        if pickles:
            raise ValueError(
                f"{directory} has its weights in {pickles[0]}, a pickle, which can run any code when it is read; "
                "convert it where you trust it: AutoModel.from_pretrained(DIR).save_pretrained(NEW) of transformers "
                "writes model.safetensors"
            )
        raise FileNotFoundError(f"{directory} has no {SINGLE}, and no {INDEX} for several")
    stored = read_directory(directory)
    tensors = {family.normalised(name): tensor for name, tensor in stored.items()}
    if len(tensors) < len(stored):
        raise ValueError(f"{directory} has one tensor under two names, with the prefix {family.prefix!r} and without")
    architecture = _architecture(family, values, tensors)
    keys = Keys({name: value for name, value in values.items() if name not in ignore}, tensors.keys())
    try:
        config = with_preprocessor(_with_head(family.to_config(keys), architecture, tensors), directory)
        _check_config(config, keys, family, len(tensors))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{directory / CONFIG}: {error}") from error
    return values, family, architecture, config, tensors


def _check_config(config: Any, keys: Keys, family: Family, tensors: int) -> None:
    """Raises ValueError for keys that nothing here does, for fields out of range, and for too many layers."""
    if left := keys.left():
        raise ValueError(
            f"{family.name} does not know {some(left)} here; if it changes nothing, pass over it: --ignore {left[0]}"
        )
    check_ranges(config, "model")
    layers = max(getattr(config, "encoder_layers", config).num_layers, getattr(config, "decoder_layers", 1))
    if layers > (MOST_SHARED if config.shared_layers else tensors):
        raise ValueError(f"it says {layers:,} layers, but there are no tensors for so many")


def _family(values: Mapping[str, Any], directory: Path) -> Family:
    """The family that config.json names; ValueError with the nearest for another."""
    name = values.get("model_type")
    if isinstance(name, str) and name in FAMILIES:
        return FAMILIES[name]
    unknown: dict[str, list[str]] = {}
    for other in FAMILIES.values():
        keys = Keys(values)
        try:
            other.to_config(keys)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            continue
        unknown[other.name] = keys.left()
    near = min(unknown, key=lambda one: len(unknown[one]), default="")
    reason = f"; the nearest, {near}, knows all its keys" if near else ""
    if near and unknown[near]:
        reason = f"; the nearest, {near}, does not know {', '.join(unknown[near])}"
    raise ValueError(
        f"{directory} is of the model_type {name!r}, which is not known here{reason}; there are {', '.join(FAMILIES)}"
    )


def _architecture(family: Family, values: Mapping[str, Any], tensors: Collection[str]) -> Architecture:
    """The class that config.json names, or the one whose head most of the tensors belong to."""
    names = values.get("architectures")
    there = [one for one in family.architectures if not one.rules or one.rules[0].theirs in tensors]
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"architectures is a list of names, not {names!r}")
    if names:
        known = [one.name for one in family.architectures]
        if names[0] not in known:
            raise ValueError(
                f"the architecture {names[0]!r} is not known here; of {family.name} there are {', '.join(known)}"
            )
        return next(one for one in (*there, *family.architectures) if one.name == names[0])
    return max(there or family.architectures, key=lambda one: sum(rule.theirs in tensors for rule in one.rules))


def _with_head(config: Any, architecture: Architecture, tensors: Mapping[str, np.ndarray]) -> Any:
    if architecture.head is None:
        return config
    outputs = 0
    if architecture.head in ("sequence", "tokens"):
        theirs = next(rule.theirs for rule in architecture.rules if rule.ours == ("head/kernel",))
        outputs = tensors[theirs].shape[0] if theirs in tensors and tensors[theirs].ndim else 1
    return dataclasses.replace(config, head=architecture.head, num_outputs=outputs)


def _check_copies(family: Family, tensors: Mapping[str, np.ndarray], over: Collection[str], directory: Path) -> None:
    """Raises ValueError for a tied tensor that differs; says which tensors the head does not need."""
    for name in over:
        of = family.copies.get(name)
        if of is not None and of in tensors and not np.array_equal(tensors[name], tensors[of]):
            raise ValueError(f"{directory} has a {name} that differs from {of}, to which it is tied here")
    if unused := sorted(name for name in over if name not in family.copies and name not in family.ignored):
        LOG.info("not used of %s: %s", directory, some(unused))


def write_published(
    directory: Path,
    config: Any,
    parameters: Mapping[str, Any],
    *,
    family: str = "",
    architecture: str = "",
    labels: Collection[str] = (),
    dtype: Any = None,
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Writes config.json and the tensors of a model, one tensor in memory at a time; returns the architecture.

    The family is the one named, or the first that can express the model. `extra` are further keys of config.json.
    Raises ValueError where none can.
    """
    chosen, kind = family_for(config, family, architecture)
    shapes = shapes_of(config)
    layout = lay_out((*chosen.rules, *chosen.rules_for(config), *kind.rules), shapes, chosen.name)

    def tensor(of: Layout) -> np.ndarray:
        arrays = []
        for each in of.ours:
            name, place = shapes.slices[each]
            array = np.asarray(parameters[name][place] if place else parameters[name])
            arrays.append(array[tuple(slice(0, size) for size in shapes.shapes[each])])
        return join(of, arrays, shapes)

    base = kind.head in ("pooled", "none")
    written = {
        name.removeprefix(chosen.prefix) if base else name: Tensor(
            np.dtype(dtype or parameters[shapes.slices[of.ours[0]][0]].dtype), of.shape, lambda of=of: tensor(of)
        )
        for name, of in layout.items()
    }
    for name, array in chosen.computed(config).items():
        written[name] = Tensor(np.dtype(dtype or array.dtype), array.shape, lambda array=array: array)
    kinds = {tensor.dtype.name for tensor in written.values()}
    values: dict[str, Any] = {"architectures": [kind.name], "model_type": chosen.name}
    values |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")) | chosen.from_config(config)
    values |= {"torch_dtype": kinds.pop() if len(kinds) == 1 else "float32"}
    if labels:
        values["id2label"] = {str(number): label for number, label in enumerate(labels)}
        values["label2id"] = {label: number for number, label in enumerate(labels)}
    directory.mkdir(parents=True, exist_ok=True)
    write_directory(directory, written)
    content = json.dumps(values | dict(extra or {}), indent=2, sort_keys=True, ensure_ascii=False)
    (directory / CONFIG).write_text(content + "\n", encoding="utf-8")
    if content := chosen.preprocessor(config):
        (directory / PREPROCESSOR).write_text(content, encoding="utf-8")
    return kind.name


def family_for(config: Any, name: str = "", architecture: str = "") -> tuple[Family, Architecture]:
    """The family of a name, or the first that can express a configuration, and its class; ValueError if none can."""
    if name and name not in FAMILIES:
        raise ValueError(f"there is no family {name!r}, only {', '.join(FAMILIES)}")
    reasons = []
    for family in [FAMILIES[name]] if name else FAMILIES.values():
        try:
            return family, family.architecture(config, architecture)
        except CannotExpressError as error:
            reasons.append(error)
    nearest = min(reasons, key=lambda error: error.fields)
    raise ValueError(
        f"no published family has a place for this model: {nearest}; a model that begins as gpt2(), llama(), bert() or "
        "from a published one has"
    )
