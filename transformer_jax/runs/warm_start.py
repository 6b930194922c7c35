"""Parameters taken from another run or from a published model, as far as they fit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from transformer_jax.data.config import DataConfig
from transformer_jax.data.tokenizer_json import TokenizerJson
from transformer_jax.data.vocabulary import Vocabulary, VocabularyConfig
from transformer_jax.interop.published import Published, open_published, published_config
from transformer_jax.nn.layer_names import slices_by_layer
from transformer_jax.nn.parameters import named_parameters, parameter_axes
from transformer_jax.runs.experiment_file import from_tree
from transformer_jax.runs.published_run import with_source
from transformer_jax.runs.run import PUBLISHED, Run, Steps, published_directory, read_tree
from transformer_jax.tasks.translation import OF_SOURCES, Translation
from transformer_jax.training.experiment import Experiment
from transformer_jax.training.step import abstract_model

PREFIX = ("layers", "vocab", "positions")
"""Axes along which the common beginning is taken; all others have to be equal."""
OF_TRAINING = ("head", "num_outputs", "dropout", "attention_dropout", "feed_forward_dropout", "head_dropout", "dtype")
OF_TRAINING += ("attention_kernel", "initializer", "layer_drop", "remat", "stochastic_depth", "unroll")
OF_TRAINING += ("vocab_multiple",)
"""Fields of a model that say how it is trained, rather than what a published one computes."""
LEAST = 0.01
"""The share of a model's values that has to fit."""


@dataclass(frozen=True)
class Origin:
    """A trained run to begin from."""

    run: Run
    steps: Steps

    @staticmethod
    def open(place: str) -> "Origin | PublishedOrigin":
        """The run that `RUN` or `RUN:STEP` names, STEP as in `--checkpoint`, or the published model of a directory.

        Raises FileNotFoundError or ValueError.
        """
        if (published := published_directory(place)) is not None:
            return PublishedOrigin(open_published(published))
        directory, _, checkpoint = place.rpartition(":")
        if not directory or Path(place).is_dir():
            directory, checkpoint = place, ""
        run = Run.open(directory)
        return Origin(run, run.checkpoint_steps(checkpoint or None))

    def more_taken(self, model: Any) -> str:
        """What is taken beside parameters and vocabulary: nothing."""
        return ""

    def tokenizers(self, data: DataConfig, kinds: Mapping[str, VocabularyConfig]) -> dict[str, Vocabulary]:
        """The run's vocabularies for the features of text in `kinds`; ValueError where they are of another kind."""
        theirs = self.run.experiment.data
        if type(theirs.tokenizer) is not type(data.tokenizer):
            one, other = type(theirs.tokenizer).__name__, type(data.tokenizer).__name__
            raise ValueError(f"the vocabulary of {self.run.directory} is {one}; set data.tokenizer to it, not {other}")
        of_text = {
            feature: self.run.tokenizers[feature]
            for feature, kind in self.run.experiment.task.vocabularies(theirs).items()
            if kind == theirs.tokenizer
        }
        distinct = {tokenizer.fingerprint: tokenizer for tokenizer in of_text.values()}
        shared = next(iter(distinct.values())) if len(distinct) == 1 else None
        ours = {feature: of_text.get(feature, shared) for feature, kind in kinds.items() if kind == data.tokenizer}
        return {feature: tokenizer for feature, tokenizer in ours.items() if tokenizer is not None}

    def shapes(self) -> dict[str, Any]:
        """Shape and type of the run's parameters by name."""
        return named_parameters(abstract_model(self.run.experiment.model))

    def parameters(self) -> dict[str, np.ndarray]:
        """The run's parameters by name."""
        model = self.run.model_of(self.steps)
        return {name: np.asarray(value) for name, value in named_parameters(model).items()}


@dataclass(frozen=True)
class PublishedOrigin:
    """A published model to begin from."""

    published: Published

    def more_taken(self, model: Any) -> str:
        """What is taken beside parameters and vocabulary, for a person."""
        if type(model) is not type(self.published.config):
            return ""
        ours = ", ".join(name for name in OF_TRAINING if hasattr(model, name))
        return f" ({self.published.family.name}, whose sizes and forms are taken; the experiment's own are {ours})"

    def tokenizers(self, data: DataConfig, kinds: Mapping[str, VocabularyConfig]) -> dict[str, Vocabulary]:
        """The published tokenizer for the features of text in `kinds`."""
        if not (texts := [feature for feature, kind in kinds.items() if kind == data.tokenizer]):
            return {}  # a model of pictures has none
        tokenizer = TokenizerJson(str(self.published.directory), self.published.config.vocab_size).train([])
        return dict.fromkeys(texts, tokenizer)

    def shapes(self) -> dict[str, Any]:
        """Shape and type of the published parameters by our names."""
        return named_parameters(abstract_model(self.published.config))

    def parameters(self) -> dict[str, np.ndarray]:
        """The published parameters by our names, on no device."""
        return self.published.arrays()


def with_published(experiment: Experiment, directory: Path) -> Experiment:
    """The experiment with model and tokenizer of a published model that it begins from, if it begins from one.

    What the tokenizer puts around texts stands around the sources of a translation that says nothing of its own.

    Of a model of the same class, fields are the published ones but for `OF_TRAINING`; another keeps its own. For a run
    that exists in `directory` they are what the run has saved.
    """
    place, task = experiment.train.initialize_from, experiment.task
    silent = isinstance(task, Translation) and not (task.source_start or task.source_end)
    if place and Run.exists(directory) and (directory / PUBLISHED).is_dir():
        saved = read_tree(directory)
        config: Any = from_tree(experiment.model, saved["model"])
        tokenizer = from_tree(TokenizerJson(), saved["data"]["tokenizer"])
        if silent:
            task = replace(task, **{name: saved["task"][name] for name in OF_SOURCES if name in saved["task"]})
    elif place and (published := published_directory(place)) is not None:
        config = published_config(published)
        tokenizer = TokenizerJson(vocab_size=config.vocab_size)
        if silent:
            task = with_source(task, replace(tokenizer, path=str(published)).train([]))
    else:
        return experiment
    model = experiment.model
    if type(model) is type(config):
        kept = {name: getattr(model, name) for name in OF_TRAINING if hasattr(model, name)}
        # The vocabularies' sizes follow from the tokenizer.
        kept |= {name: 0 for name in ("vocab_size", "source_vocab_size") if hasattr(model, name)}
        model = replace(config, **kept)
    return replace(experiment, task=task, model=model, data=replace(experiment.data, tokenizer=tokenizer))


class Copy(NamedTuple):
    """A part of a parameter that is taken from a part of an old one."""

    name: str
    place: tuple[int | slice, ...]
    old: str
    source: tuple[int | slice, ...]


def fitting(model: Any, old: Mapping[str, np.ndarray]) -> list[Copy]:
    """For a model's configuration: what its parameters can take from those of `old`.

    A parameter is taken where the name is the same, and the shape but for `PREFIX`; in a stack, layer N is taken from
    layer N, however the layers are grouped. Raises ValueError where nothing fits.
    """
    abstract = abstract_model(model)
    axes, shapes = parameter_axes(abstract), _shapes(named_parameters(abstract))
    ours, theirs = slices_by_layer(shapes), slices_by_layer(_shapes(old))
    slices: dict[str, list[tuple[tuple[int, ...], str, tuple[int, ...]]]] = {name: [] for name in shapes}
    for each, (name, place) in ours.items():
        if each in theirs:
            slices[name].append((place, *theirs[each]))
    copies = []
    for name, parts in slices.items():
        if parts and all(old_name == name and source == place for place, old_name, source in parts):
            parts = [((), name, ())]  # all layers at once
        for place, old_name, source in parts:
            mine, old_shape = shapes[name][len(place) :], old[old_name].shape[len(source) :]
            if _fits(mine, old_shape, axes[name][len(place) :]):
                common = tuple(slice(min(one, other)) for one, other in zip(mine, old_shape, strict=True))
                copies.append(Copy(name, (*place, *common), old_name, (*source, *common)))
    taken = _share(copies, shapes)
    if taken < LEAST:
        what = "next to nothing" if taken else "no parameter"
        theirs, ours = (", ".join(sorted(names)[:5]) for names in (old, shapes))
        raise ValueError(f"{what} fits: there are {theirs}, ... but the model has {ours}, ... and other sizes")
    return copies


def table(model: Any, old: Mapping[str, np.ndarray], copies: Sequence[Copy]) -> str:
    """Lists the parameters that are taken from others than their like, new and left, a line each; the rest as one."""
    shapes = _shapes(named_parameters(abstract_model(model)))
    rows, as_they_are = [], 0
    for name, shape in shapes.items():
        sources = [copy for copy in copies if copy.name == name]
        if not sources:
            rows.append(("new", name, shape, f"of shape {old[name].shape} there" if name in old else ""))
        elif len(sources[0].place) == len(shape) and isinstance(sources[0].place[0], int):
            layers = f"{len(sources)} of {shape[0]} layers, " if len(sources) < shape[0] else ""
            names = ", ".join(dict.fromkeys(copy.old for copy in sources))
            rows.append(("taken", name, shape, f"{layers}from {names}"))
        elif sources[0].old != name:
            rows.append(("taken", name, shape, f"from {sources[0].old}"))
        elif shape != old[name].shape:
            rows.append(("taken", name, shape, f"the beginning that it shares with {old[name].shape}"))
        else:
            as_they_are += 1
    used = {copy.old for copy in copies}
    rows += [("left", name, old[name].shape, "") for name in old if name not in used and name not in shapes]
    width = max((len(name) for _, name, *_ in rows), default=0)
    lines = [
        f"  {what:<6} {name:<{width}}  {'x'.join(map(str, shape)):<14} {why}".rstrip()
        for what, name, shape, why in rows
    ]
    whole = [f"  taken  {as_they_are} parameters as they are"] if as_they_are else []
    return "\n".join([*whole, *lines, f"  taken in all: {100 * _share(copies, shapes):.1f} % of the parameters"])


def with_copies(
    parameters: Mapping[str, Array], old: Mapping[str, np.ndarray], copies: Sequence[Copy]
) -> dict[str, Any]:
    """The parameters after the copies from old ones."""
    new = dict(parameters)
    for copy in copies:
        new[copy.name] = new[copy.name].at[copy.place].set(old[copy.old][copy.source])
    return new


def _share(copies: Sequence[Copy], shapes: Mapping[str, tuple[int, ...]]) -> float:
    """The share of a model's values that the copies fill."""
    sizes = [math.prod(part.stop for part in copy.place if isinstance(part, slice)) for copy in copies]
    return sum(sizes) / sum(map(math.prod, shapes.values()))


def _shapes(parameters: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in parameters.items()}


def _fits(one: tuple[int, ...], other: tuple[int, ...], axes: tuple[str, ...]) -> bool:
    return len(one) == len(other) and all(a == b or axis in PREFIX for a, b, axis in zip(one, other, axes, strict=True))
