"""What a user gets wrong: one line on stderr, exit status 2, and nothing left behind."""

import pytest

from transformer_jax.cli.main import main

EXPERIMENT = """
from transformer_jax import DataConfig, Experiment, Files, MeshConfig, OptimizerConfig, SentencePiece, TrainConfig
from transformer_jax import Translation, base


def experiment():
    return Experiment(
        task=Translation(scores=("exact_match",)),
        data=DataConfig(
            source=Files(directory="text", train=("train.en", "train.de")),
            tokenizer=SentencePiece(vocab_size=30, model_type="char"),
            max_length=16,
            tokens_per_batch=256,
            num_buckets=1,
        ),
        model=base(d_model=16, num_heads=2, d_ff=32, num_layers=1),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=5),
        train=TrainConfig(steps=1, log_every=1),
        mesh=MeshConfig(data=1),
    )
"""
ENGLISH = ["one two", "two three", "three one", "two two", "one", "three"]
GERMAN = ["eins zwei", "zwei drei", "drei eins", "zwei zwei", "eins", "drei"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with an experiment and its text, to work in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    (tmp_path / "tiny.py").write_text(EXPERIMENT, encoding="utf-8")
    write(tmp_path / "text" / "train.en", ENGLISH)
    write(tmp_path / "text" / "train.de", GERMAN)
    return tmp_path


def write(path, lines):
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))


@pytest.fixture
def refusal(place, capfd):
    """Runs the command, which must refuse; returns the one line that it says."""

    def run(*arguments):
        before = sorted(path for path in place.rglob("*") if path.name != "__pycache__" and path.suffix != ".pyc")
        capfd.readouterr()
        status = main(list(arguments))
        _, error = capfd.readouterr()
        assert status == 2, error
        assert error.startswith("error: ") and error.count("\n") == 1 and error.endswith("\n"), error
        assert sorted(path for path in place.rglob("*") if path.suffix != ".pyc") == before, "something is left behind"
        return error.removeprefix("error: ").strip()

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        # A field that there is not, and values that no field of its type can have
        (["--model.num-head", "4"], "unknown field --model.num-head; did you mean --model.num-heads?"),
        (["--data.source.trian", "a", "b"], "did you mean --data.source.train?"),
        (["--train.steps", "many"], "--train.steps needs a whole number, not 'many'"),
        (["--train.steps", "1.5"], "--train.steps needs a whole number, not '1.5'"),
        (["--model.gated", "perhaps"], "--model.gated needs"),
        (["--model.dropout"], "--model.dropout needs"),
        # Values that make no model
        (["--model.num-heads", "3"], "d_model 16 is not a multiple of num_heads 3"),
        (["--model.d-model", "-16"], "model.d_model must be at least 1 and at most 1048576, not -16"),
        (["--model.dropout", "1.5"], "model.dropout must be at least 0 and below 1, not 1.5"),
        (["--model.dropout", "nan"], "model.dropout must be a finite number, not nan"),
        (["--model.activation", "rleu"], "unknown model.activation 'rleu'; known: relu"),
        (["--model.dtype", "float8"], "unknown model.dtype 'float8'; known: float32, bfloat16"),
        (["--model.positions", "learned", "--model.max-length", "8"], "model.max_length 8 is below data.max_length 16"),
        (["--data.shared-vocabulary", "False"], "model.share_embeddings needs data.shared_vocabulary"),
        # Values that make no training
        (["--optimizer.name", "adm"], "adm"),
        (["--optimizer.learning-rate", "nan"], "optimizer.learning_rate"),
        (["--optimizer.learning-rate", "-1"], "optimizer.learning_rate"),
        (["--train.steps", "-1"], "train.steps must be at least 1 and below 2147483648, not -1"),
        (["--train.seed", "-1"], "train.seed must be at least 0 and below 9223372036854775808, not -1"),
        (["--train.checkpoint", "bset"], "a checkpoint is last, best, ema, a step or average:N, not 'bset'"),
        (["--train.checkpoint", "average:9"], "needs more than train.keep 3"),
        (["--train.checkpoint", "average:3"], "needs more than the 1 that 1 steps with train.save_every 1000 leave"),
        (
            ["--train.save-every", "epoch", "--train.steps", "2", "--train.checkpoint", "average:3"],
            "needs more than the 2 that 2 steps with train.save_every epoch leave",
        ),
        (["--train.save-every", "epochs"], "--train.save-every needs a whole number or 'epoch', not 'epochs'"),
        (["--train.evaluate-every", "-1"], "train.evaluate_every must be at least 0, not -1"),
        (["--train.log-to", "tensorbord"], "--train.log-to needs values that are each 'tensorboard' or 'wandb'"),
        (["--train.patience", "3"], "train.patience needs validation examples"),
        (["--train.checkpoint", "ema"], "train.checkpoint ema needs optimizer.ema"),
        (["--train.checkpoint", "best"], "train.checkpoint best needs validation examples"),
        (["--task.label-smoothing", "1"], "task.label_smoothing must be at least 0 and below 1, not 1.0"),
        (["--task.scores", "blue"], "unknown score 'blue'; known: bleu"),
        (["--task.decoding.beam-size", "0"], "task.decoding.beam_size must be at least 1 and at most 1024, not 0"),
        (["--task.decoding.groups", "3"], "decoding.groups 3 does not divide decoding.beam_size 4"),
        # Numbers that no machine has memory for, or counts to
        (["--model.num-layers", "1000000000000"], "model.num_layers must be at least 1 and at most 10000, not 1000000"),
        (["--model.num-decoder-layers", "10001"], "model.num_decoder_layers must be at least 1 and at most 10000"),
        (["--model.vocab-multiple", "2147483648"], "model.vocab_multiple must be at least 1 and at most 1048576"),
        (["--model.positions.offset", "2147483648"], "model.positions.offset must be at least 0 and at most 1048576"),
        (
            ["--data.tokens-per-batch", "1000000000000"],
            "data.tokens_per_batch must be at least 1 and at most 134",
        ),
        (["--data.batch-multiple", "1000000000000"], "data.batch_multiple must be at least 1 and at most 1048576"),
        (["--optimizer.warmup-steps", "2147483648"], "optimizer.warmup_steps must be at least 1 and below 2147483648"),
        (
            ["--optimizer.schedule-steps", "2147483648"],
            "optimizer.schedule_steps must be at least 1 and below 214",
        ),
        (["--train.steps", "2147483648"], "train.steps must be at least 1 and below 2147483648, not 2147483648"),
        # A machine that is too small
        (["--mesh.tensor", "64"], "mesh.tensor 64 does not fit 8 devices; the product can be 1, 2, 4, 8"),
        (["--mesh.data", "0"], "mesh sizes are positive"),
        (["--train.accumulate", "3"], "data.batch_multiple 8 is not a multiple of 3"),
        # Batches and vocabularies that the text does not give
        (["--data.tokens-per-batch", "8"], "data.tokens_per_batch"),
        (["--data.max-length", "2"], "no example is left: skipped 6 (6 longer than 2 tokens)"),
        (["--data.max-length", "0"], "data.max_length must be at least 1, not 0"),
        (["--data.tokenizer.model-type", "bpe", "--data.tokenizer.vocab-size", "5000"], "data.tokenizer.vocab_size"),
        (["--data.tokenizer.path", "absent.model"], "absent.model"),
        # Text that is not there
        (
            ["--data.tokenizer", "bytes", "--data.subword-sampling", "0.1"],
            "needs a SentencePiece vocabulary",
        ),
        (["--data.source.directory", "txet"], "set data.source.directory"),
        (["--data.source.train", "train.en", "train.dd"], "did you mean train.de"),
        (["--data.source.train", "train.en"], "give one text file for each of source, target"),
        (["--data.source.validation", "validation.en", "validation.de"], ", data.source.validation"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(refusal, options, message):
    assert message in refusal("train", "tiny.py", "--workdir", "deep/run", *options)


def test_a_mistake_leaves_a_directory_that_was_there(refusal, place):
    (place / "deep").mkdir()
    (place / "deep" / "mine.txt").write_text("keep me")
    refusal("train", "tiny.py", "--workdir", "deep/run", "--data.max-length", "2")
    assert (place / "deep" / "mine.txt").read_text() == "keep me"


TAKEN = ["experiment.py", "sizes.py", "metrics.jsonl", "published/a", "tokenizer/a", "checkpoints/7"]


@pytest.mark.parametrize("name", TAKEN)
def test_files_of_a_directory_that_is_no_run_are_not_overwritten(refusal, place, name):
    (place / "tiny.py").write_text("import sizes\n" + EXPERIMENT)
    (place / "sizes.py").write_text("")
    mine = place / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("keep me")
    message = refusal("train", "tiny.py", "--workdir", "mine")
    assert f"mine/{name.split('/')[0]} is there, but no experiment.json" in message
    assert mine.read_text() == "keep me"


def test_the_default_directory_is_not_made_for_a_mistake(refusal):
    refusal("train", "tiny.py", "--data.max-length", "2")


def test_misaligned_files_are_named_with_their_numbers_of_lines(refusal, place):
    write(place / "text" / "train.de", GERMAN[:-1])
    message = refusal("train", "tiny.py", "--workdir", "run")
    assert "train.en has 6" in message and "train.de has 5" in message


@pytest.mark.parametrize(
    "lines", [[], [""] * 6, ["  \t"] * 6, [b"\xff\xfd"] * 6], ids=["none", "empty", "blank", "bad"]
)
def test_a_corpus_without_text_is_refused(refusal, place, lines):
    for name in ("train.en", "train.de"):
        write(place / "text" / name, lines)
    message = refusal("train", "tiny.py", "--workdir", "run")
    assert "no text" in message or "no examples" in message
    write(place / "text" / "train.en", ENGLISH[: len(lines)])
    message = refusal("train", "tiny.py", "--workdir", "run")
    assert "no text" in message or "no examples" in message


def test_misaligned_validation_files_are_refused_before_training(refusal, place):
    write(place / "text" / "validation.en", ["one", "two"])
    write(place / "text" / "validation.de", ["eins"])
    files = ["--data.source.validation", "validation.en", "validation.de"]
    assert "validation.de has 1" in refusal("train", "tiny.py", "--workdir", "run", *files)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "did you mean tiny.py?"),
        ("", "experiment()"),
        ("def experiment(:\n", "mine.py"),
        ("experiment = 3\n", "experiment"),
        ("def experiment():\n    return 3\n", "Experiment"),
        ("import absent_package_of_mine\n", "absent_package_of_mine"),
        ("def experiment():\n    raise RuntimeError('two\\nlines')\n", "two lines"),
        (EXPERIMENT.replace("d_model=16", "d_modle=16"), "d_modle"),
    ],
)
def test_an_experiment_file_that_gives_no_experiment_is_refused(refusal, place, text, message):
    name = "tini.py" if text is None else "mine.py"
    if text is not None:
        (place / name).write_text(text, encoding="utf-8")
    assert message in refusal("train", name, "--workdir", "run")


def test_a_run_refuses_another_experiment_naming_a_few_changes_and_lines_that_are_all_too_long(refusal, place):
    assert main(["train", "tiny.py", "--workdir", "run"]) == 0
    changes = ["--model.d-ff", "64", "--model.d-model", "32", "--model.num-layers", "2", "--train.seed", "4"]
    message = refusal(
        "train", "tiny.py", "--workdir", "run", *changes, "--data.max-length", "9", "--model.gated", "True"
    )
    assert message.count(" was ") == 5 and "and 1 more" in message
    write(place / "text" / "long", ["one " * 20])
    message = refusal("evaluate", "run", "--source", "text/long", "--reference", "text/long")
    assert "no example is left: skipped 1 (1 longer than 16 tokens)" in message


def test_lines_that_cannot_be_learnt_from_are_skipped_and_counted(place, capfd):
    bad = [("", "leer"), ("empty", " "), (b"caf\xe9", "kaffee"), ("two", b"\xff"), (b"\xfe", ""), ("x" * 16, "lang")]
    english, german = zip(*bad, strict=True)
    write(place / "text" / "train.en", [*ENGLISH, *english])
    write(place / "text" / "train.de", [*GERMAN, *german])
    assert main(["train", "tiny.py", "--workdir", "run"]) == 0
    printed, _ = capfd.readouterr()
    (line,) = [line for line in printed.splitlines() if line.startswith("train: ")]
    assert line.startswith("train: 6 examples, ")
    assert "; skipped 6 (" in line
    for reason in ("3 empty", "2 undecodable", "1 longer than 16 tokens"):
        assert reason in line
