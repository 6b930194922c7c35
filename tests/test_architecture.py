"""The house rules of the code, held against its syntax trees."""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import transformer_jax
from transformer_jax.runs.experiment_file import load_experiment_file

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "transformer_jax"

TOP_DOWN = ["cli", "reproduction", "analysis", "runs", "training", "tasks", "interop", "decoding", "models", "nn"]
BELOW = {room: {*TOP_DOWN[TOP_DOWN.index(room) + 1 :], "parallel", "data"} for room in TOP_DOWN}
BELOW["interop"].remove("decoding")
BELOW |= {"parallel": set(), "data": set()}

IMPORTED_WHERE_USED = {"matplotlib", "scipy", "sklearn", "torch", "transformers"}
IMPORTED_WHERE_USED |= {"tensorboardX", "tensorflow", "tensorflow_datasets", "jiwer", "soundfile", "soxr"}

# The files outside the rooms are the package's front doors: they lead everywhere, on request.
MODULES = sorted(PACKAGE.glob("*/**/*.py"))
BUILT_IN = ("Dates", "DigitPairs", "Digits", "DocstringSummaries", "PythonDocs")
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))
EVERYTHING = [file for folder in ("transformer_jax", "experiments", "tests") for file in (ROOT / folder).rglob("*.py")]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def imports(path: Path, *, when_imported: bool = False) -> Iterator[str]:
    """Dotted names that a file imports, `a.b` for `from a import b`; if asked, only those imported with the file."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import, which hides the room it leads to"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (when_imported and runs_later(node)):
            pending.extend(ast.iter_child_nodes(node))


def runs_later(node: ast.AST) -> bool:
    """A function's body, or what only a type checker sees."""
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    return is_function or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")


def package_of(name: str) -> str:
    return name.split(".")[0]


def comments(path: Path) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def test_every_module_is_in_a_room_of_the_house():
    assert {"data", "nn", "models", "training"} <= {room_of(path) for path in MODULES} <= set(BELOW)
    assert {path.name for path in PACKAGE.glob("*.py")} <= {"__init__.py", "__main__.py", "version.py"}


def test_every_public_name_leads_somewhere():
    names = dir(transformer_jax)
    assert {room_of(path) for path in MODULES} <= set(names)
    assert all(hasattr(transformer_jax, name) for name in names)


def test_a_room_imports_only_from_rooms_below():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in MODULES
        for name in imports(path)
        if name.startswith("transformer_jax.")
        and name.split(".")[1] not in BELOW[room_of(path)] | {room_of(path), "version"}
    ]
    assert not wrong


def test_only_layers_and_models_know_flax():
    assert {room_of(path) for path in MODULES if "flax" in map(package_of, imports(path))} == {"nn", "models"}


def test_heavy_packages_are_imported_where_they_are_used():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in PACKAGE.rglob("*.py")
        for name in imports(path, when_imported=True)
        if package_of(name) in IMPORTED_WHERE_USED
    ]
    assert not wrong


def test_experiments_need_only_this_package():
    allowed = {"transformer_jax", *sys.stdlib_module_names}
    assert EXPERIMENTS
    assert not [path for path in EXPERIMENTS if not set(map(package_of, imports(path))) <= allowed]


def test_no_file_is_named_after_nothing():
    assert not [path for path in EVERYTHING if path.stem in ("utils", "util", "common", "misc", "helpers")]


def test_no_check_is_switched_off():
    switch = re.compile(r"#\s*(type:\s*ignore|noqa(?!: F722$)|(based)?pyright:)")
    assert not [f"{path}: {text}" for path in EVERYTHING for text in comments(path) if switch.match(text)]


def variants(file: Path) -> list[str]:
    """`experiment`, and what else `--variant` can name in an experiment file."""
    functions = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    names = [
        node.name for node in functions if not node.args.args and ast.unparse(node.returns or node) == "Experiment"
    ]
    return list(dict.fromkeys(["experiment", *names]))


@pytest.mark.parametrize(
    ("file", "variant"),
    [(file, variant) for file in EXPERIMENTS for variant in variants(file)],
)
def test_every_experiment_has_a_model_that_fits_its_task(file, variant):
    experiment = load_experiment_file(file, variant)
    task, data = experiment.task, experiment.data
    model = task.resolve(experiment.model, data, dict.fromkeys(task.vocabularies(data), 1_000))
    assert model.num_parameters() > 100_000
    assert "DIRECTORY" in (file.read_text()) or type(data.source).__name__ in BUILT_IN
