"""An experiment written as JSON and read back, compared, and loaded from its file."""

import copy
import json
import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files, Source
from transformer_jax.models.encoder_decoder import base
from transformer_jax.runs.experiment_file import differences, flatten, from_tree, load_experiment_file, to_tree
from transformer_jax.tasks.translation import Translation
from transformer_jax.training.experiment import Experiment, TrainConfig

OWN_CLASSES = '''
from __future__ import annotations

from dataclasses import dataclass, field, replace
from transformer_jax import DataConfig, EncoderDecoderConfig, Experiment, Source, Translation


@dataclass(frozen=True)
class Reversed(Source):
    """Words, and the same backwards."""

    words: tuple[str, ...] = ("one", "two")
    """What is learnt."""
    weights: dict[str, float] = field(default_factory=dict)
    """How often."""
    limit: int | None = None
    """At most so many."""

    def examples(self, split):
        return [{"source": word, "target": word[::-1]} for word in self.words]


@dataclass(frozen=True)
class OwnTask(Translation):
    sharpness: float = 1.0


@dataclass(frozen=True)
class OwnModel(EncoderDecoderConfig):
    num_experts: int = 4


def experiment():
    return Experiment(task=OwnTask(), data=DataConfig(source=Reversed()), model=OwnModel(d_model=32))
'''


def make() -> Experiment:
    source = Files(train=("a.en", "a.de"))
    return Experiment(task=Translation(), data=DataConfig(source=source), model=base(num_layers=2))


def write(directory: Path, text: str, name: str = "mine.py") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def test_an_experiment_survives_json():
    experiment = replace(make(), train=TrainConfig(steps=7, stop_after=3))
    tree = json.loads(json.dumps(to_tree(experiment)))
    assert from_tree(make(), tree) == experiment
    assert differences(tree, to_tree(experiment)) == {}
    assert tree["data"]["source"]["class"] == "Files"
    assert tree["data"]["source"]["train"] == ["a.en", "a.de"]


def test_own_classes_in_the_file_survive_json_and_pickle(tmp_path: Path):
    path = write(tmp_path, OWN_CLASSES)
    first = load_experiment_file(path)
    source = replace(first.data.source, words=("x",), weights={"x": 2.0}, limit=3)
    changed = replace(first, data=replace(first.data, source=source), model=replace(first.model, num_experts=8))
    tree = json.loads(json.dumps(to_tree(changed)))
    second = from_tree(load_experiment_file(path), tree)
    assert to_tree(second) == tree
    assert list(second.data.source.examples("train")) == [{"source": "x", "target": "x"}]
    assert second.model.num_experts == 8
    assert pickle.loads(pickle.dumps(first)) == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.py"]


def test_differences_name_the_field_and_a_changed_class_alone():
    old = make()
    new = replace(old, train=TrainConfig(steps=5), data=DataConfig(source=Holder()))
    assert differences(to_tree(old), to_tree(new)) == {
        "train.steps": (100_000, 5),
        "data.source.class": ("Files", "Holder"),
    }


def test_flatten_gives_every_field_by_its_path():
    fields = flatten(make())
    assert fields["model.num_layers"] == 2
    assert fields["data.source.train"] == ("a.en", "a.de")
    assert fields["task.decoding.beam_size"] == 4
    assert "data.source" not in fields


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train.steps", "x", "train.steps needs a whole number, not 'x'"),
        ("train.steps", "3", "train.steps needs a whole number, not '3'"),
        ("train.steps", 2.5, "train.steps needs a whole number, not 2.5"),
        ("train.steps", None, "train.steps needs a whole number, not None"),
        ("train.stop_after", "x", "train.stop_after needs a whole number or None, not 'x'"),
        ("model.dropout", "much", "model.dropout needs a number, not 'much'"),
        ("model.gated", "yes", "model.gated needs True or False, not 'yes'"),
        ("model.activation", 3, "model.activation needs text, not 3"),
        ("data.source.train", "a.txt", "data.source.train needs values that are each text, not 'a.txt'"),
        ("data.source", 3, "data.source was saved as 3, but its file makes it a Files"),
        ("data.source.class", "Tfds", "data.source was saved as Tfds, but its file makes it a Files"),
        ("model.d_modle", 2, "the saved experiment has an unknown field model.d_modle; did you mean model.d_model?"),
    ],
)
def test_a_wrong_saved_value_is_refused_with_one_line(path: str, value: Any, message: str):
    tree = copy.deepcopy(to_tree(make()))
    *parents, name = path.split(".")
    inner = tree
    for parent in parents:
        inner = inner[parent]
    inner[name] = value
    with pytest.raises(ValueError) as caught:
        from_tree(make(), tree)
    assert str(caught.value) == message


def test_a_missing_saved_field_is_refused():
    tree = to_tree(make())
    del tree["train"]["steps"]
    with pytest.raises(ValueError, match="no field train.steps"):
        from_tree(make(), tree)


def test_whole_numbers_do_for_numbers():
    tree = to_tree(make())
    tree["model"]["dropout"] = 0
    value = from_tree(make(), tree).model.dropout
    assert value == 0.0
    assert isinstance(value, float)


HEAD = "from transformer_jax import DataConfig, Files, Experiment, Translation, base\n\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "has no function experiment()"),
        ("def experiment():\n    return 3\n", "must return an Experiment, not 3"),
        ("def experiment():\n    y = 1\n    return 1 / 0\n", "line 3: ZeroDivisionError: division by zero"),
        ("import nowhere_at_all\n", "line 1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("x = 1\ndef experiment(:\n", "line 2: SyntaxError"),
        (
            HEAD + "def experiment():\n    return Experiment(Translation(), DataConfig(Files()), base(num_layer=3))\n",
            "line 4: TypeError",
        ),
        (
            HEAD + "def experiment():\n    return Experiment(Translation(), DataConfig(Files), base())\n",
            "data.source is the class Files; write Files()",
        ),
        (
            HEAD + "def experiment():\n    return Experiment(Translation(), Files(), base())\n",
            "data needs a DataConfig, not Files(",
        ),
        (
            HEAD + "def experiment():\n    return Experiment(Translation(), DataConfig(Files()), base(d_model='8'))\n",
            "model.d_model needs a whole number, not '8'",
        ),
        (
            HEAD + "def experiment():\n    return Experiment(Translation(), DataConfig(Files()), len)\n",
            "model is <built-in function len>, which cannot be saved as JSON",
        ),
    ],
)
def test_a_broken_experiment_file_is_refused_with_its_line(
    tmp_path: Path, text: str, message: str, monkeypatch: pytest.MonkeyPatch
):
    # Users' processes have no type checks in constructors.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    path = write(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        load_experiment_file(path)
    assert str(caught.value).startswith((str(path), f"experiment() in {path}"))
    assert message in str(caught.value)


def test_a_missing_experiment_file_is_named_with_its_neighbour(tmp_path: Path):
    write(tmp_path, OWN_CLASSES, "quickstart.py")
    with pytest.raises(FileNotFoundError, match=r"quickstrat.py; did you mean quickstart.py\?"):
        load_experiment_file(tmp_path / "quickstrat.py")


@dataclass(frozen=True)
class Holder(Source):
    names: frozenset[str] = frozenset("edcba")
    pairs: tuple[tuple[str, float], ...] = (("a", 1.0),)
    by_number: dict[int, str] = field(default_factory=lambda: {1: "x"})


def test_sets_and_nested_values_survive_json():
    experiment = replace(make(), data=DataConfig(source=Holder()))
    tree = json.loads(json.dumps(to_tree(experiment)))
    assert tree["data"]["source"]["names"] == list("abcde")
    assert from_tree(experiment, tree) == experiment
