"""Parameters taken from another run, as far as they fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array

from transformer_jax.data.config import DataConfig
from transformer_jax.data.tokenizers import Tokenizer, TokenizerConfig
from transformer_jax.nn.parameters import named_parameters, parameter_axes
from transformer_jax.training.run import Run
from transformer_jax.training.step import abstract_model

PREFIX = ("layers", "vocab", "positions")
"""Axes along which the common beginning is taken; all others have to be equal."""


@dataclass(frozen=True)
class Origin:
    """A trained run to begin from."""

    run: Run
    steps: list[int]

    @classmethod
    def open(cls, place: str) -> "Origin":
        """The run that `RUN` or `RUN:STEP` names; STEP as in `--checkpoint`. Raises FileNotFoundError or ValueError."""
        directory, _, checkpoint = place.rpartition(":")
        if not directory or Path(place).is_dir():
            directory, checkpoint = place, ""
        run = Run.open(directory)
        return cls(run, run.checkpoint_steps(checkpoint or None))

    def tokenizers(self, data: DataConfig, kinds: Mapping[str, TokenizerConfig]) -> dict[str, Tokenizer]:
        """The run's vocabularies for the features of text in `kinds`; ValueError where they are of another kind."""
        theirs = self.run.experiment.data
        if type(theirs.tokenizer) is not type(data.tokenizer):
            raise ValueError(
                f"the vocabulary of {self.run.directory} is {type(theirs.tokenizer).__name__}, data.tokenizer is "
                f"{type(data.tokenizer).__name__}; set it to the same"
            )
        of_text = {
            feature: self.run.tokenizers[feature]
            for feature, kind in self.run.experiment.task.vocabularies(theirs).items()
            if kind == theirs.tokenizer
        }
        one = (
            next(iter(of_text.values()))
            if len({tokenizer.fingerprint for tokenizer in of_text.values()}) == 1
            else None
        )
        found = {feature: of_text.get(feature, one) for feature, kind in kinds.items() if kind == data.tokenizer}
        return {feature: tokenizer for feature, tokenizer in found.items() if tokenizer is not None}

    def parameters(self) -> dict[str, np.ndarray]:
        """The run's parameters by name."""
        model = self.run.predictor_of(self.steps).model
        return {name: np.asarray(value) for name, value in named_parameters(model).items()}


def taken(model: Any, old: Mapping[str, np.ndarray]) -> tuple[dict[str, tuple[slice, ...]], str]:
    """For a model's configuration: the parts of its parameters that `old` has too, by name; and a table that says so.

    A parameter is taken where the name is the same, and the shape but for `PREFIX`. Raises ValueError where none is.
    """
    abstract = abstract_model(model)
    axes, shapes = parameter_axes(abstract), {name: leaf.shape for name, leaf in named_parameters(abstract).items()}
    parts, rows = {}, []
    for name, shape in shapes.items():
        theirs = old[name].shape if name in old else None
        if theirs is None or not _fits(shape, theirs, axes[name]):
            rows.append(("new", name, shape, "" if theirs is None else f"of shape {theirs} there"))
            continue
        parts[name] = tuple(slice(min(one, other)) for one, other in zip(shape, theirs, strict=True))
        rows.append(("taken", name, shape, "" if shape == theirs else f"the beginning that it shares with {theirs}"))
    rows += [("left", name, old[name].shape, "") for name in old if name not in shapes]
    if not parts:
        raise ValueError(
            f"no parameter fits: there are {', '.join(sorted(old)[:5])}, ... but the model has "
            f"{', '.join(sorted(shapes)[:5])}, ..."
        )
    width = max(len(name) for _, name, *_ in rows)
    lines = [
        f"  {what:<6} {name:<{width}}  {'x'.join(map(str, shape)):<14} {why}".rstrip()
        for what, name, shape, why in rows
    ]
    return parts, "\n".join(lines)


def with_taken(
    parameters: Mapping[str, Array], old: Mapping[str, np.ndarray], parts: Mapping[str, tuple[slice, ...]]
) -> dict[str, Any]:
    """The parameters with those parts of others."""
    return {
        name: value.at[parts[name]].set(old[name][parts[name]]) if name in parts else value
        for name, value in parameters.items()
    }


def _fits(one: tuple[int, ...], other: tuple[int, ...], axes: tuple[str, ...]) -> bool:
    if len(one) != len(other):
        return False
    return all(a == b or axis in PREFIX for a, b, axis in zip(one, other, axes, strict=True))
