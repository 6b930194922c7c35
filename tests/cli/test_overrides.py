"""Fields of an experiment from the command line."""

from dataclasses import dataclass
from typing import Literal

import pytest

from transformer_jax.cli.overrides import apply_overrides
from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files, Source
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig, base
from transformer_jax.tasks.translation import Translation
from transformer_jax.training.experiment import Experiment


@dataclass(frozen=True)
class OwnModel(EncoderDecoderConfig):
    num_experts: int = 4
    """Experts of every layer."""
    routing: Literal["hard", "soft"] = "hard"
    """How tokens choose."""

    def __post_init__(self) -> None:
        if self.num_experts < 1:
            raise ValueError("num_experts must be at least 1")


@dataclass(frozen=True)
class OwnSource(Source):
    span: tuple[int, float] = (1, 2.0)
    """A range."""


def make(source: Source | None = None, model: EncoderDecoderConfig | None = None) -> Experiment:
    return Experiment(task=Translation(), data=DataConfig(source=source or Files()), model=model or base())


def override(*arguments: str, experiment: Experiment | None = None) -> Experiment:
    return apply_overrides(experiment or make(), arguments, "prog")


def test_without_arguments_nothing_changes():
    assert override() == make()


@pytest.mark.parametrize("spelling", ["--model.num-layers=3", "--model.num_layers=3", "--model.num-layers 3"])
def test_every_spelling_of_a_field_sets_it(spelling: str):
    assert override(*spelling.split()).model.num_layers == 3


def test_values_are_read_by_the_type_of_their_field():
    experiment = override(
        *("--data.source.train", "a.en", "a.de", "--model.gated", "True", "--train.stop-after", "5"),
        *("--optimizer.learning-rate", "1e-3", "--task.decoding.beam-size", "2", "--mesh.data", "-1"),
    )
    assert experiment.data.source == Files(train=("a.en", "a.de"))
    assert experiment.model == base(gated=True)
    assert experiment.train.stop_after == 5
    assert experiment.optimizer.learning_rate == 1e-3
    assert experiment.task == Translation(decoding=type(Translation().decoding)(beam_size=2))
    assert override("--train.stop-after", "None", experiment=experiment).train.stop_after is None
    assert override("--data.source.train", experiment=experiment).data.source == Files()


def test_the_last_of_two_values_counts():
    assert override("--train.steps", "1", "--train.steps", "2").train.steps == 2


def test_a_value_may_begin_with_dashes():
    assert override("--train.best=--x").train.best == "--x"


def test_fields_of_own_classes_can_be_set():
    experiment = override(
        *("--model.num-experts", "8", "--model.routing", "soft", "--data.source.span", "3", "4"),
        experiment=make(OwnSource(), OwnModel()),
    )
    assert experiment.model == OwnModel(num_experts=8, routing="soft")
    assert experiment.data.source == OwnSource(span=(3, 4.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model.num-layer 3", "unknown field --model.num-layer; did you mean --model.num-layers?"),
        ("--model.num_layer=3", "unknown field --model.num-layer; did you mean --model.num-layers?"),
        ("--steps 3", "unknown field --steps; did you mean --train.steps?"),
        ("--zzz 3", "unknown field --zzz; --help lists every field"),
        ("--train.steps 5 --model.num-layer 3", "unknown field --model.num-layer; did you mean --model.num-layers?"),
        ("--train.steps x", "--train.steps needs a whole number, not 'x'"),
        ("--train.seed 1 --train.steps 1.5", "--train.steps needs a whole number, not '1.5'"),
        ("--train.steps 1 2", "--train.steps needs a whole number, not '1 2'"),
        ("--train.steps", "--train.steps needs a whole number; nothing was given"),
        ("--train.stop-after x", "--train.stop-after needs a whole number or None, not 'x'"),
        ("--model.dropout much", "--model.dropout needs a number, not 'much'"),
        ("--model.gated yes", "--model.gated needs True or False, not 'yes'"),
        ("--model.gated", "--model.gated needs True or False; nothing was given"),
        ("--model.routing sof", "--model.routing needs 'hard' or 'soft', not 'sof'"),
        ("--data.source.span 1", "--data.source.span needs a whole number, then a number, not '1'"),
        ("--model.num-experts 0", "num_experts must be at least 1"),
        ("junk", "unexpected argument 'junk'; fields are changed like --train.steps 100"),
        ("junk --train.steps 3", "unexpected argument 'junk'; fields are changed like --train.steps 100"),
        (
            "--data.source Files",
            "--data.source is chosen in the experiment's file; change its fields, such as --data.source.span",
        ),
    ],
)
def test_a_mistake_is_one_line_and_prints_nothing(arguments: str, message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ValueError) as caught:
        override(*arguments.split(), experiment=make(OwnSource(), OwnModel()))
    assert str(caught.value) == message
    assert capsys.readouterr() == ("", "")


def test_fields_outside_of_only_are_refused():
    with pytest.raises(ValueError, match="unknown field --train.steps"):
        apply_overrides(make(), ["--train.steps", "3"], "prog", only="task.")
    changed = apply_overrides(make(), ["--task.decoding.beam-size", "3"], "prog", only="task.")
    assert changed.task != make().task


def test_help_lists_fields_with_their_default_and_docstring(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        override("--train.steps", "3", "--help", experiment=make(OwnSource(), OwnModel(d_model=96)))
    assert stop.value.code == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    text = " ".join(printed.replace("│", " ").split())
    assert "Width of the vectors between layers. (default: 96)" in text
    assert "Experts of every layer. (default: 4)" in text
    assert "Updates of the parameters in all. (default: 100000)" in text
    assert "--data.source.span INT FLOAT A range. (default: 1 2.0)" in text
