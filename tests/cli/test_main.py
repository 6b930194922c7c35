"""What scripts may rely on: exit status, stdout, the first line of stderr."""

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import transformer_jax
from transformer_jax.cli import evaluate as evaluate_verb
from transformer_jax.cli import train as train_verb
from transformer_jax.cli.errors import exit_status, user_input
from transformer_jax.cli.main import VERBS, main
from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Example, Source
from transformer_jax.models.encoder_decoder import base
from transformer_jax.runs.run import Run, Steps
from transformer_jax.tasks.image_classification import PictureReader
from transformer_jax.tasks.predictor import AttentionMap
from transformer_jax.tasks.translation import Hypothesis, Translation
from transformer_jax.training.experiment import Experiment

Capture = pytest.CaptureFixture[str]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(transformer_jax.__file__).parents[1])}
"""Processes that a test starts import the package that is tested."""


@dataclass(frozen=True)
class Words(Source):
    def examples(self, split: str) -> list[Example]:
        return [{"source": split, "target": split.upper()}]


@dataclass(frozen=True)
class Upper(Translation):
    """Its right answer is the input in capitals."""

    def resolve(self, model: Any, data: DataConfig, tokenizers: Any) -> Any:
        return model

    def evaluate(self, predictor: Any, examples: Sequence[Example]) -> dict[str, Any]:
        right = [predictor.predict([example["source"]]) == [example["target"]] for example in examples]
        exact = 100 * sum(right) / len(right)
        return {"examples": len(examples), "exact_match": exact, "beam": self.decoding.beam_size}


class Predictor:
    def predict(self, lines: list[str]) -> list[str]:
        for number, line in enumerate(lines, 1):
            if len(line) > 50:
                raise ValueError(f"line {number} is too long")
        return [line.upper() for line in lines]

    def search(self, lines: list[str], n_best: int) -> list[list[Hypothesis]]:
        return [[Hypothesis(line.upper() + "!" * i, -0.5 - i, -1.0) for i in range(n_best)] for line in lines]

    def score(self, sources: list[str], targets: list[str]) -> list[float]:
        return [-float(len(source) + len(target)) for source, target in zip(sources, targets, strict=True)]

    def attention(self, source: str, target: str | None) -> list[AttentionMap]:
        tokens, output = source.split(), (target or "an output").split()
        weights = np.full((2, 2, len(output), len(tokens)), 1 / len(tokens), np.float32)
        return [AttentionMap("Cross-attention", weights, output, tokens)]


class FakeRun(Run):
    def checkpoint_steps(self, checkpoint: str | None = None) -> Steps:
        if checkpoint == "nonsense":
            raise ValueError("a checkpoint is last, best, a step or average:N, not 'nonsense'")
        return Steps([10, 20] if checkpoint == "average:2" else [20])

    def predictor(self, checkpoint: str | None = None) -> Any:
        self.checkpoint_steps(checkpoint)
        return Predictor()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run whose model writes capitals."""
    experiment = Experiment(task=Upper(), data=DataConfig(source=Words()), model=base())
    directory = tmp_path / "run"
    monkeypatch.setattr(Run, "open", lambda _: FakeRun(directory, experiment, {}))
    monkeypatch.setattr(
        evaluate_verb, "evaluate", lambda run, _, examples, __: run.experiment.task.evaluate(Predictor(), examples)
    )
    return str(directory)


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def type_in(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))


def python(*arguments: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the interpreter."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=directory, env=ENVIRONMENT)


def refused(capsys: Capture, *arguments: str) -> str:
    """The one line on stderr that a mistake gives, without `error: `."""
    assert main(list(arguments)) == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    return errors.removeprefix("error: ").strip()


# The command itself


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_overview_lists_every_verb(arguments: list[str], capsys: Capture):
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(f"transformer-jax {verb} " in printed for verb in VERBS)


def test_an_unknown_verb_is_refused_with_the_nearest(capsys: Capture):
    assert refused(capsys, "trian") == "unknown command trian; did you mean train?"
    assert refused(capsys, "zzz") == "unknown command zzz; there are " + ", ".join(VERBS)


def test_the_overview_and_a_misspelt_verb_do_not_import_jax():
    code = "import sys; from transformer_jax.cli.main import main; main([]); main(['trian']); main(['--version']); "
    code += "print([name for name in ('jax', 'flax', 'numpy', 'tyro') if name in sys.modules])"
    result = python("-c", code)
    assert result.stdout.endswith("[]\n")


@pytest.mark.parametrize("module", ["transformer_jax", "transformer_jax.cli.main"])
def test_the_package_and_its_main_module_are_the_command(module: str):
    result = python("-m", module, "trian")
    assert result.returncode == 2
    assert "did you mean train?" in result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: Capture):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"usage: transformer-jax {verb}" in capsys.readouterr().out


# How it ends


def test_mistakes_are_2_and_failures_1_with_a_traceback(capsys: Capture):
    def mistake() -> None:
        with user_input():
            raise ValueError("two\n  lines")

    def unreadable() -> None:
        with user_input():
            Path("/nowhere/at/all").read_bytes()

    def failure() -> None:
        with user_input():
            pass
        raise ValueError("two\n  lines")

    assert exit_status(mistake) == 2
    assert capsys.readouterr().err == "error: two lines\n"
    assert exit_status(unreadable) == 2
    assert capsys.readouterr().err == "error: No such file or directory: /nowhere/at/all\n"
    assert exit_status(failure) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("Traceback")
    assert errors.endswith("failed: ValueError: two lines\n")


def test_an_interrupt_is_130_and_quiet(capsys: Capture):
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert exit_status(interrupted) == 130
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_has_enough_ends_the_command_quietly():
    code = "import sys; from transformer_jax.cli.errors import exit_status\n"
    code += "sys.exit(exit_status(lambda: [print(i) for i in range(100000)] and None))"
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, env=ENVIRONMENT)
    assert process.stdout and process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


# train


EXPERIMENT = """
from transformer_jax import DataConfig, Experiment, Files, Translation, base, run_experiment

def experiment():
    return Experiment(task=Translation(), data=DataConfig(source=Files()), model=base(num_layers=2))

run_experiment(__file__)
"""


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What the verb hands to the trainer, which is not started."""
    calls: list[Any] = []

    def prepare(*arguments: Any) -> Any:
        calls.extend(arguments)
        run = SimpleNamespace(checkpoint_steps=lambda: [7], directory=Path("there"))
        return SimpleNamespace(run=run, mesh=SimpleNamespace(size=1))

    monkeypatch.setattr(train_verb, "prepare", prepare)
    monkeypatch.setattr(train_verb, "train", lambda _, profile: not profile)
    monkeypatch.setattr(train_verb, "show_result", lambda _, steps, mesh: calls.append(steps))
    monkeypatch.chdir(tmp_path)
    return calls


def test_train_takes_a_file_a_directory_and_fields(trained: list[Any], tmp_path: Path):
    file = write(tmp_path / "mine.py", EXPERIMENT)
    assert main(["train", file, "--workdir", "there", "--model.num_layers", "3", "--train.steps=7"]) == 0
    experiment, path, directory, shown = trained
    assert (experiment.model.num_layers, experiment.train.steps) == (3, 7)
    assert (path, directory, shown) == (Path(file), Path("there"), [7])


def test_the_default_directory_is_named_after_the_file(trained: list[Any], tmp_path: Path):
    assert main(["train", write(tmp_path / "mine.py", EXPERIMENT)]) == 0
    assert trained[2] == Path("runs/mine")


def test_a_mistake_in_train_leaves_nothing_behind(trained: list[Any], tmp_path: Path, capsys: Capture):
    file = write(tmp_path / "mine.py", EXPERIMENT)
    message = "unknown field --model.num-layer; did you mean --model.num-layers?"
    assert refused(capsys, "train", file, "--model.num-layer", "3") == message
    assert refused(capsys, "train", file, "--train.steps", "x") == "--train.steps needs a whole number, not 'x'"
    assert refused(capsys, "train", file, "junk").startswith("unexpected argument 'junk'")
    assert "unknown option --wokdir; did you mean --workdir?" in refused(capsys, "train", file, "--wokdir", "x")
    assert "name an experiment file" in refused(capsys, "train")
    assert "did you mean mine.py?" in refused(capsys, "train", str(tmp_path / "mime.py"))
    assert trained == []
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_train_help_lists_the_fields_of_the_file_or_of_an_example(trained: list[Any], tmp_path: Path, capsys: Capture):
    file = write(tmp_path / "mine.py", EXPERIMENT)
    for arguments, layers in ((["train", "--help"], 6), (["train", file, "--help"], 2)):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        printed = capsys.readouterr().out
        assert stop.value.code == 0
        assert "--workdir" in printed
        assert "--train.stop-after" in printed
        assert f"(default: {layers})" in " ".join(printed.replace("│", " ").split())


def test_running_the_experiment_file_is_train(tmp_path: Path):
    file = write(tmp_path / "mine.py", EXPERIMENT)
    result = python(file, "--model.num-layer", "3", directory=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == "error: unknown field --model.num-layer; did you mean --model.num-layers?"
    assert os.listdir(tmp_path) == ["mine.py"]


# evaluate


def test_evaluate_prints_one_json_object(run: str, capsys: Capture):
    assert main(["evaluate", run, "--json", "--checkpoint", "average:2"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == {"checkpoint": [10, 20], "examples": 1, "exact_match": 100.0, "beam": 4}


def test_evaluate_takes_files_and_fields_of_the_task(run: str, tmp_path: Path, capsys: Capture):
    source, reference = write(tmp_path / "s", "a\nb\n"), write(tmp_path / "r", "A\nX\n")
    files = ["--source", source, "--reference", reference]
    assert main(["evaluate", run, *files, "--task.decoding.beam-size", "2"]) == 0
    printed = capsys.readouterr().out
    rows = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert rows == {"checkpoint": "20", "examples": "2", "exact_match": "50", "beam": "2"}


def test_mistakes_in_evaluate_say_what_to_do(run: str, tmp_path: Path, capsys: Capture):
    one, two = write(tmp_path / "one", "a\n"), write(tmp_path / "two", "a\nb\n")
    bad, empty = write(tmp_path / "bad", b"a\nb\xff\n"), write(tmp_path / "empty", "")
    assert "as many lines" in refused(capsys, "evaluate", run, "--source", one, "--reference", two)
    assert f"{bad} line 2 is not UTF-8" in refused(capsys, "evaluate", run, "--source", bad, "--reference", two)
    assert "at least one, but" in refused(capsys, "evaluate", run, "--source", empty, "--reference", empty)
    assert "go together" in refused(capsys, "evaluate", run, "--source", one)
    assert "no split tset, only train" in refused(capsys, "evaluate", run, "--split", "tset")
    assert "did you mean --checkpoint?" in refused(capsys, "evaluate", run, "--chekpoint", "best")
    assert "not 'nonsense'" in refused(capsys, "evaluate", run, "--checkpoint", "nonsense")
    assert "unknown field --train.steps" in refused(capsys, "evaluate", run, "--train.steps", "3")
    assert "beam_size must be at least 1 and at most 1024, not 0" in refused(
        capsys, "evaluate", run, "--task.decoding.beam-size", "0"
    )
    assert "required: RUN" in refused(capsys, "evaluate")


def test_a_directory_without_a_run_is_refused(tmp_path: Path, capsys: Capture):
    assert "is not a run directory" in refused(capsys, "evaluate", str(tmp_path))


# predict


def test_predict_writes_a_line_for_a_line(run: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture):
    # U+2028, form feed and carriage return end no line.
    type_in(monkeypatch, "jeudi\n\nä\u2028b\x0cc\rd\r\nlast".encode())
    assert main(["predict", run]) == 0
    assert capsys.readouterr().out == "JEUDI\n\nÄ\u2028B\x0cC\rD\nLAST\n"


def test_predict_numbers_its_n_best_lines(run: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture):
    for options, expected in (
        (["--n-best", "2", "--scores"], "1\t-0.500000\tA\n1\t-1.500000\tA!\n2\t-0.500000\tB\n2\t-1.500000\tB!\n"),
        (["--n-best", "2"], "1\tA\n1\tA!\n2\tB\n2\tB!\n"),
        (["--scores"], "-0.500000\tA\n-0.500000\tB\n"),
    ):
        type_in(monkeypatch, b"a\nb\n")
        assert main(["predict", run, *options]) == 0
        assert capsys.readouterr().out == expected


class Names(PictureReader):
    """Predicts the name of every file."""

    def __init__(self) -> None: ...

    def predict(self, lines: list[str]) -> list[str]:
        return [Path(line).stem for line in lines]


def test_predict_takes_files_and_folders_of_pictures(run: str, tmp_path: Path, monkeypatch: Any, capsys: Capture):
    assert "the model reads lines of text, not x.png" in refused(capsys, "predict", run, "x.png")
    monkeypatch.setattr(FakeRun, "predictor", lambda *_: Names())
    folder = tmp_path / "some [1]"
    (folder / "in").mkdir(parents=True)
    assert f"there are no pictures in {folder}, files that end with" in refused(capsys, "predict", run, str(folder))
    one, two = write(folder / "b.JPG", ""), write(folder / "in" / "a.png", "")
    write(folder / "notes.txt", "")
    for files, expected in (
        ([two], "a\n"),
        ([str(folder)], f"{one}\tb\n{two}\ta\n"),
        ([two, str(folder / "in")], f"{two}\ta\n" * 2),
        (["x.gif", two], f"x.gif\tx\n{two}\ta\n"),
    ):
        assert main(["predict", run, *files]) == 0
        assert capsys.readouterr().out == expected
    assert f"name {one} behind RUN" in refused(capsys, "predict", run, "--input", one)


def test_a_line_that_cannot_be_predicted_costs_no_other(run: str, tmp_path: Path, capsys: Capture):
    lines = [f"a{i}".encode() for i in range(3_000)]
    lines[7], lines[100], lines[101], lines[2_500] = b"\xff", b"x" * 60, b"", b"y" * 60
    file = write(tmp_path / "input", b"\n".join(lines) + b"\n")
    assert main(["predict", run, "--input", file]) == 0
    printed, errors = capsys.readouterr()
    expected = [line.decode().upper() if len(line) < 60 and line != b"\xff" else "" for line in lines]
    assert printed.split("\n") == [*expected, ""]
    assert errors.splitlines() == [
        "line 8 is skipped: it is not UTF-8; convert the file, for instance with iconv",
        "line 101 is skipped: is too long",
        "line 2,501 is skipped: is too long",
        "3 of 3,000 lines are skipped",
    ]
    write(tmp_path / "input", b"a\n\xff\n\n")
    assert main(["predict", run, "--input", file, "--scores", "--n-best", "1"]) == 0
    assert capsys.readouterr().out == "1\t-0.500000\tA\n2\tnan\t\n3\t-0.500000\t\n"
    write(tmp_path / "input", b"\xff\n" * 2)
    assert main(["predict", run, "--input", file]) == 2
    assert "none of 2 lines could be used" in capsys.readouterr().err


def test_what_is_done_is_kept_when_the_input_breaks_off(run: str, tmp_path: Path, capsys: Capture):
    output, file = tmp_path / "out", tmp_path / "input.gz"
    write(file, gzip.compress(os.urandom(200_000).hex().replace("0", "\n").encode())[:-20])
    assert main(["predict", run, "--input", str(file)]) == 2
    printed, errors = capsys.readouterr()
    assert "ends early or is damaged" in errors and printed.count("\n") >= 2_048
    assert main(["predict", run, "--input", str(file), "--output", str(output)]) == 2
    assert f"what was done before is in {output}.partial\n" in capsys.readouterr().err
    assert Path(f"{output}.partial").read_text() == printed and not output.exists()
    write(file, gzip.compress(b"a\n")[:-9])
    assert main(["predict", run, "--input", str(file), "--output", str(output)]) == 2
    write(file, gzip.compress(b"a\n"))
    assert main(["predict", run, "--input", str(file), "--output", str(output)]) == 0
    assert output.read_text() == "A\n" and Path(f"{output}.partial").read_text() == printed
    assert len(list(tmp_path.glob("out*"))) == 2


def test_an_output_has_its_name_when_it_is_whole(run: str, tmp_path: Path, capsys: Capture):
    good, output = write(tmp_path / "good", "a\nb\n"), tmp_path / "out"
    assert main(["predict", run, "--input", good, "--output", str(output)]) == 0
    assert output.read_text() == "A\nB\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", "out"]
    (tmp_path / "link").symlink_to("out")
    write(tmp_path / "good", "c\n")
    assert main(["predict", run, "--input", good, "--output", str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink() and output.read_text() == "C\n"


def test_pipes_are_inputs_and_outputs(run: str, tmp_path: Path, capsys: Capture):
    def fed(name: str, text: bytes) -> str:
        os.mkfifo(tmp_path / name)
        threading.Thread(target=(tmp_path / name).write_bytes, args=(text,), daemon=True).start()
        return str(tmp_path / name)

    assert main(["predict", run, "--input", fed("in", b"a\nb\n")]) == 0
    assert capsys.readouterr().out == "A\nB\n"
    assert main(["score", run, "--source", fed("source", b"a\n"), "--target", fed("target", b"bb\n")]) == 0
    assert capsys.readouterr().out == "-3.000000\n"
    os.mkfifo(tmp_path / "out")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "out").read_text()))
    reader.start()
    arguments = ["--input", write(tmp_path / "file", "c\n"), "--output", str(tmp_path / "out")]
    assert main(["predict", run, *arguments]) == 0
    reader.join()
    assert read == ["C\n"] and (tmp_path / "out").is_fifo()
    # What a shell gives for >(...) and <(...)
    readable, writable = os.pipe()
    os.write(writable, b"d\n")
    assert main(["predict", run, "--input", arguments[1], "--output", f"/dev/fd/{writable}"]) == 0
    os.close(writable)
    assert main(["predict", run, "--input", f"/dev/fd/{readable}"]) == 0
    assert capsys.readouterr().out == "D\nC\n"
    os.close(readable)


def test_bad_input_for_predict_is_a_mistake(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture):
    type_in(monkeypatch, "a\n".encode("utf-16-le"))
    assert "the input is UTF-16LE without a byte order mark" in refused(capsys, "predict", run)
    write(tmp_path / "input", "a\n")
    assert "is damaged" in refused(capsys, "predict", run, "--input", write(tmp_path / "x.gz", "a\n"))
    assert "did you mean input?" in refused(capsys, "predict", run, "--input", str(tmp_path / "inptu"))
    assert refused(capsys, "predict", run, "--input", str(tmp_path)) == f"{tmp_path} is a directory, not a file"
    nowhere = ["--input", str(tmp_path / "input"), "--output", str(tmp_path / "nowhere" / "out")]
    assert "No such file" in refused(capsys, "predict", run, *nowhere)
    (tmp_path / "loop").symlink_to("loop")
    message = refused(capsys, "predict", run, *nowhere[:-1], str(tmp_path / "loop"))
    assert message == f"{tmp_path / 'loop'} is a link that leads to itself; name another file"


def test_a_device_is_written_to_and_not_replaced(run: str, tmp_path: Path):
    file = write(tmp_path / "input", "a\n")
    assert main(["predict", run, "--input", file, "--output", os.devnull]) == 0
    assert not Path(os.devnull).is_file()


def test_a_file_that_is_open_already_is_written_on(run: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    arguments = ["predict", run, "--input", write(tmp_path / "input", "a\n"), "--output"]
    with (tmp_path / "log").open("w") as log:
        log.write("before\n")
        log.flush()
        for place in ("/dev/fd", "/proc/self/fd"):
            assert main([*arguments, f"{place}/{log.fileno()}"]) == 0
    assert (tmp_path / "log").read_text() == "before\nA\nA\n"
    for place in ("/dev/fd/1", "/proc/self/fd/1", "/dev/stderr"):
        assert main([*arguments, place]) == 0
    assert capfd.readouterr() == ("A\nA\n", "A\n")


# score, attention, average


def test_score_prints_a_number_for_every_pair(run: str, tmp_path: Path, capsys: Capture):
    source, target = write(tmp_path / "s", "a\nbb\n"), write(tmp_path / "t", "x\n\n")
    short = write(tmp_path / "short", "x\n")
    assert main(["score", run, "--source", source, "--target", target]) == 0
    assert capsys.readouterr().out == "-2.000000\n-2.000000\n"
    assert main(["score", run, "--source", write(tmp_path / "bad", b"\xff\na\n"), "--target", target]) == 0
    printed, errors = capsys.readouterr()
    assert printed == "nan\n-1.000000\n" and errors.startswith("line 1 is skipped: it is not UTF-8")
    assert "as many lines" in refused(capsys, "score", run, "--source", source, "--target", short)


def test_attention_draws_a_picture_and_a_page(run: str, tmp_path: Path, capsys: Capture):
    directory = tmp_path / "maps"
    assert main(["attention", run, "a short sentence", "--output", str(directory)]) == 0
    lines = [
        "a short sentence -> A SHORT SENTENCE",
        str(directory / "attention.png"),
        str(directory / "attention.html"),
    ]
    assert capsys.readouterr().out.splitlines() == lines
    assert (directory / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert "sentence" in (directory / "attention.html").read_text(encoding="utf-8")


def test_average_writes_the_mean_of_the_last_checkpoints(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
):
    monkeypatch.setattr(FakeRun, "write_average", lambda _, steps, directory: directory)
    assert main(["average", run, "--last", "2", "--output", str(tmp_path / "mean")]) == 0
    assert capsys.readouterr().out == f"the mean of steps 10, 20: {tmp_path / 'mean'}\n"
    assert "unexpected argument junk" in refused(capsys, "average", run, "junk")


def test_compiled_programs_are_kept_with_a_run_but_for_cpus(tmp_path, monkeypatch):
    kept = {}
    monkeypatch.setattr(jax.config, "update", kept.__setitem__)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    train_verb.keep_programs(tmp_path)
    assert not kept
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    train_verb.keep_programs(tmp_path)
    assert kept == {"jax_compilation_cache_dir": str(tmp_path / "cache" / "programs")}
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    kept.clear()
    train_verb.keep_programs(tmp_path)
    assert not kept
