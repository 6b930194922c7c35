"""The examples of README.md and docs/extending.md run, and docs/FIDELITY.md names files and tests that exist."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import transformer_jax
from transformer_jax.cli.main import main
from transformer_jax.data.subwords import ByteBPE
from transformer_jax.interop.published import write_published
from transformer_jax.models.decoder_only import gpt2
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.runs.run import Run

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / "transformer_jax", ROOT / "tests"
PAGES = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/extending.md")]
BLOCKS = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]
EXPERIMENTS = {
    block.split("\n")[0].removeprefix("# experiment: "): block for block in BLOCKS if "def experiment" in block
}
QUICK = ["--train.validation-examples", "0", "--mesh.data", "1"]
SMALL = ["--model.d-model", "16", "--model.d-ff", "32", "--model.num-layers", "1"]
TRANSLATION = [*SMALL, "--task.decoding.beam-size", "1", "--task.decoding.extra-length", "4"]
DATES = [*TRANSLATION, "--data.source.test-examples", "8", "--data.source.train-examples", "2000"]


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Trains an example in a directory of its own, and returns the output."""
    monkeypatch.chdir(tmp_path)

    def run(name, *options):
        Path("example.py").write_text(EXPERIMENTS[name], encoding="utf-8")
        status = main(["train", "example.py", *QUICK, *options])
        captured = capsys.readouterr()
        assert status == 0, captured.err
        return captured.out

    return run


def test_there_is_an_example_of_each_part():
    parts = ["your own files", "a source", "a task", "columns", "a model", "a position", "a layer"]
    assert [*EXPERIMENTS] == parts


# More steps than an epoch has batches: the last of those is not full.
@pytest.mark.parametrize(
    ("name", "reported"),
    [
        pytest.param("your own files", "bleu", marks=pytest.mark.slow),
        ("a source", "exact_match"),
        pytest.param("a task", "year_match", marks=pytest.mark.slow),
        pytest.param("a model", "exact_match", marks=pytest.mark.slow),
    ],
)
def test_an_example_of_translation_trains_and_evaluates(name, reported, train):
    options = ["--train.steps", "10", *(DATES if name in ("a task", "a model") else TRANSLATION)]
    if name == "your own files":
        Path("data").mkdir()
        for side in ("en", "de"):
            Path("data", f"train.{side}").write_text("".join(f"{side} {n}\n" for n in range(400)), encoding="utf-8")
        options += ["--data.tokenizer.vocab-size", "60", "--data.tokens-per-batch", "1024"]
    assert reported in train(name, *options)


def test_an_example_with_columns_learns_and_recognises(train):
    assert "frames" in train("columns", "--train.steps", "60")
    recogniser = transformer_jax.load("runs/example")
    examples = list(Run.open("runs/example").experiment.data.source.examples("test"))
    found = recogniser.predict([" ".join(map(str, example["frames"].ravel())) for example in examples])
    assert found == recogniser.recognise([example["frames"] for example in examples])
    assert np.mean([label == str(example["label"]) for label, example in zip(found, examples, strict=True)]) > 0.6


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("a position", ["--model.positions.rate", "0.5"], marks=pytest.mark.slow),
        ("a layer", []),
    ],
)
def test_an_example_below_the_model_trains_and_decodes_with_a_cache(name, options, train):
    train(name, "--train.steps", "3", *options, *DATES)
    model, _ = transformer_jax.load("runs/example")
    tokens, lengths = jnp.asarray(np.random.default_rng(0).integers(4, 60, (2, 6)), jnp.int32), jnp.array([6, 4])

    @jax.jit
    def start(model):
        memory = model.encode(tokens, source_lengths=lengths)
        return model.start_cache(memory, 6), model.logits(model.decode(tokens, memory).vectors)

    extend = jax.jit(lambda model, token, cache: model.extend(token, cache))
    cache, whole = start(model)
    steps = []
    for i in range(6):
        step, cache = extend(model, tokens[:, i : i + 1], cache)
        steps.append(step)
    np.testing.assert_allclose(jnp.concatenate(steps, axis=1), whole, rtol=1e-4, atol=1e-4)


def test_modules_work_in_a_project_of_ones_own():
    block = next(block for block in BLOCKS if "stack = Stack" in block)
    names: dict = {}
    exec(block, names)
    assert names["value"] > 0


def test_files_of_pictures_and_sound_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(100):
        file = Path("data/pictures/train", ("cat", "dog")[number % 2], f"{number}.jpg")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    Path("data/train.tsv").write_text("".join(f"{n}.wav\thello\n" for n in range(400)), encoding="utf-8")
    names: dict = {}
    exec(next(block for block in BLOCKS if "PictureFolders(" in block), names)
    assert sum(len(names["pictures"].source.files(split)) for split in names["pictures"].source.splits) == 100
    examples = [row for split in names["sound"].source.splits for row in names["sound"].source.examples(split)]
    assert len(examples) == 400 and {"audio": tmp_path / "data" / "1.wav", "text": "hello"} in examples


def publish_gpt2():
    config = gpt2(d_model=16, num_heads=2, d_ff=32, num_layers=1, vocab_size=300, max_length=32)
    write_published(Path("DIR"), config, named_parameters(config.build(0)))
    Path("DIR", "tokenizer.json").write_bytes(ByteBPE(vocab_size=300).train(["to be or not"] * 9).content)


def test_a_published_model_works_in_a_project_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    publish_gpt2()
    names: dict = {}
    exec(next(block for block in BLOCKS if "export(model" in block), names)
    before, after = (transformer_jax.load(place).score(["to be or not to be"])[0] for place in ("DIR", "NEW"))
    assert names["before"] > 0 and after > before


@pytest.mark.slow
def test_programs_are_run_without_the_package(tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers", reason="writes programs")
    monkeypatch.chdir(tmp_path)
    publish_gpt2()
    assert main(["import", "DIR", "RUN"]) == main(["export", "RUN", "PROGRAMS", "--stablehlo", "16"]) == 0
    names: dict = {}
    exec(next(block for block in BLOCKS if "deserialize" in block), names)
    model, tokens = transformer_jax.load("DIR").model, names["prompt"] + names["written"]
    assert model(jnp.array([tokens]))[0, 2:-1].argmax(-1).tolist() == names["written"]


def test_pages_link_to_files_that_exist():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_table_of_fidelity_names_files_functions_and_tests_that_exist():
    page = (ROOT / "docs" / "FIDELITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_0-9/]+\.py)(?:::(test_\w+))?`", page)
    assert len(named) > 30
    for path, test in named:
        file = TESTS / path if Path(path).name.startswith("test_") else PACKAGE / path
        assert file.is_file(), path
        assert not test or f"def {test}(" in file.read_text(encoding="utf-8"), f"{path} has no {test}"
    # A path is followed by names of what stands in that file.
    for path, names in re.findall(r"`([a-z_0-9/]+\.py)`((?:,? `[A-Za-z_.]+`)+)", page):
        if not Path(path).name.startswith("test_"):
            text = (PACKAGE / path).read_text(encoding="utf-8")
            for name in re.findall(r"`([\w.]+)`", names):
                assert re.search(rf"(def|class) {name.split('.')[-1]}\b", text), f"{path} has no {name}"
