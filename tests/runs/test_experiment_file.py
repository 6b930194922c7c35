"""An experiment written as JSON and read back, compared, and loaded from its file."""

import copy
import json
import pickle
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jaxtyping
import pytest

from transformer_jax.cli.overrides import apply_overrides
from transformer_jax.data.config import DataConfig
from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.sources import Files, Source
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig, base
from transformer_jax.parallel.mesh import MeshConfig
from transformer_jax.runs.experiment_file import differences, field_types, from_tree, load_experiment_file, to_tree
from transformer_jax.runs.preparation import refused_changes
from transformer_jax.tasks.translation import Decoding, Translation
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


def test_every_field_has_its_type_by_its_path():
    fields = field_types(make())
    assert typing.get_args(fields["model.num_layers"])[0] is int
    assert fields["data.source.train"] == tuple[str, ...]
    assert typing.get_args(fields["task.decoding.beam_size"])[0] is int
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


@dataclass(frozen=True)
class Sharpened(Translation):
    sharpness: Annotated[float, MAY_CHANGE] = 1.0
    width: int = 1


def test_a_run_goes_on_with_other_values_only_where_the_field_says_so():
    old = replace(make(), task=Sharpened())
    train = TrainConfig(steps=3, stop_after=2, log_every=1, keep=9, best="", checkpoint="best", lost_process_timeout=9)
    task = Sharpened(decoding=Decoding(beam_size=1), scores=("chrf",), sharpness=2.0)
    data = replace(old.data, cache="here", source=Files(directory="there", train=("a.en", "a.de")))
    mesh, model = MeshConfig(data=1, fsdp=2), replace(old.model, remat=True)
    new = replace(old, task=task, train=train, data=data, mesh=mesh, model=model)
    assert refused_changes(to_tree(old), new) == ""
    new = replace(new, train=replace(train, seed=1), task=replace(task, width=2))
    assert refused_changes(to_tree(old), new) == "task.width was 1, now 2; train.seed was 0, now 1"


class Place:
    """A family of small classes, of which a model chooses one."""

    kinds: ClassVar[Mapping[str, type]] = {}


@dataclass(frozen=True)
class Wave(Place):
    pass


@dataclass(frozen=True)
class Turn(Place):
    base: float = 10_000.0


@dataclass(frozen=True)
class Own(Place):
    pass


Place.kinds = {"wave": Wave, "turn": Turn}


@dataclass(frozen=True)
class PlacedModel(EncoderDecoderConfig):
    place: Place = Wave()
    new: int = 3

    @classmethod
    def upgraded(cls, tree: dict[str, Any]) -> dict[str, Any]:
        """`place` was a name once, beside `place_base`, and the class was called `OldModel`."""
        if isinstance(tree.get("place"), str):
            base = {"base": tree.pop("place_base")} if tree["place"] == "turn" else {}
            tree["place"] = {"class": cls.place.kinds[tree["place"]].__name__, **base}
        return tree | {"class": "PlacedModel"}


def placed(**fields: Any) -> Experiment:
    return replace(make(), model=PlacedModel(**fields))


def old_tree() -> dict[str, Any]:
    tree = to_tree(placed())
    del tree["model"]["new"], tree["train"]["steps"]
    tree["model"] |= {"class": "OldModel", "place": "turn", "place_base": 5.0}
    return tree


def test_an_older_versions_fields_are_upgraded_and_those_it_lacked_keep_the_files_value():
    ours = replace(placed(new=8), train=TrainConfig(steps=7))
    assert from_tree(ours, old_tree()) == replace(ours, model=PlacedModel(place=Turn(base=5.0), new=8))


def test_a_run_of_an_older_version_is_compared_in_todays_fields_and_only_in_those_it_had():
    assert refused_changes(old_tree(), placed(place=Turn(base=5.0), new=8)) == ""
    assert refused_changes(old_tree(), placed(place=Turn(base=6.0))) == "model.place.base was 5.0, now 6.0"
    assert refused_changes(old_tree(), placed(place=Wave())) == "model.place.class was 'Turn', now 'Wave'"


def test_a_part_saved_as_another_of_its_kinds_is_read_as_that_one():
    tree = json.loads(json.dumps(to_tree(placed(place=Turn(base=2.0)))))
    assert from_tree(placed(), tree).model == PlacedModel(place=Turn(base=2.0))
    with pytest.raises(ValueError, match=r"model.place was saved as Own, but its file makes it a Wave"):
        from_tree(placed(), to_tree(placed(place=Own())))


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        ("--model.place turn", PlacedModel(place=Turn())),
        ("--model.place turn --model.place.base 5", PlacedModel(place=Turn(base=5.0))),
        ("--model.place.base=5 --model.place=turn --model.new 4", PlacedModel(place=Turn(base=5.0), new=4)),
    ],
)
def test_the_command_line_chooses_a_kind_by_name_and_then_its_fields(arguments: str, model: PlacedModel):
    for place in (Wave(), Turn(base=3.0), Own()):
        assert apply_overrides(placed(place=place), arguments.split(), "prog").model == model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model.place turns", "--model.place is one of wave, turn, not 'turns'; did you mean turn?"),
        ("--model.place", "--model.place is one of wave, turn; nothing was given"),
        ("--model.place wave --model.place.base 5", "unknown field --model.place.base"),
    ],
)
def test_a_kind_that_there_is_not_is_refused_with_those_that_there_are(arguments: str, message: str):
    with pytest.raises(ValueError) as caught:
        apply_overrides(placed(place=Turn()), arguments.split(), "prog")
    assert str(caught.value).startswith(message)


def test_a_value_out_of_range_is_refused_in_the_file_and_on_the_command_line(tmp_path: Path):
    text = OWN_CLASSES.replace("sharpness: float = 1.0", "sharpness: Annotated[float, Ge(1)] = 0.5")
    path = write(
        tmp_path,
        text.replace(
            "from dataclasses", "from annotated_types import Ge\nfrom typing import Annotated\nfrom dataclasses", 1
        ),
    )
    with pytest.raises(ValueError, match=r"mine.py: task.sharpness must be at least 1, not 0.5$"):
        load_experiment_file(path)
    with pytest.raises(ValueError, match=r"^train.steps must be at least 1 and below 2147483648, not 0$"):
        apply_overrides(make(), ["--train.steps", "0"], "prog")
    with pytest.raises(ValueError, match=r"^optimizer.learning_rate must be a finite number, not nan$"):
        apply_overrides(make(), ["--optimizer.learning-rate", "nan"], "prog")


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
