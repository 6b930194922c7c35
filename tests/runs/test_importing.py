"""A published model becomes a run on which every command works, and goes back as it came."""

import dataclasses
import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

import transformer_jax
from transformer_jax.analysis.plan import make_plan
from transformer_jax.cli.main import main
from transformer_jax.data.chat import render
from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files
from transformer_jax.data.subwords import WordPiece
from transformer_jax.data.tokenizer_json import TokenizerJson, TokenizerJsonTokenizer
from transformer_jax.decoding.sampling import Sampling
from transformer_jax.interop.published import open_published, write_published
from transformer_jax.interop.tensor_files import SINGLE, read_directory, read_tensors
from transformer_jax.models.decoder_only import llama
from transformer_jax.models.encoder_decoder import base
from transformer_jax.models.encoder_only import bert
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.nn.positions import Sinusoidal
from transformer_jax.runs import importing
from transformer_jax.runs.experiment_file import load_experiment_file
from transformer_jax.runs.exporting import export_run, write_tokenizer
from transformer_jax.runs.importing import import_run
from transformer_jax.runs.published_generation import FILE
from transformer_jax.runs.published_run import experiment_for, load_published, with_source
from transformer_jax.runs.run import Run
from transformer_jax.runs.sentence_files import write_pooling
from transformer_jax.runs.warm_start import with_published
from transformer_jax.tasks.generator import Generation
from transformer_jax.tasks.text_vectors import TextVectors
from transformer_jax.tasks.translation import Decoding, Translation
from transformer_jax.training.experiment import Experiment, TrainConfig

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "##s", "dull"]
SIZES = {"d_model": 16, "num_heads": 2, "d_ff": 24, "num_layers": 2, "max_length": 32, "vocab_size": 13}
MARIAN = {"positions": Sinusoidal(interleaved=False), "attention_bias": True, "output_bias": True, "norm_epsilon": 1e-5}
LINES = ["a good film", "bad films", "a dull film"]
TRAIN = """\
from transformer_jax import *

def experiment():
    source = Files(DIRECTORY, features=("text", "label"), train=("train.tsv",))
    data = DataConfig(source=source, tokenizer=TokenizerJson(), max_length=16, batch_multiple=8)
    model = bert(d_model=16, num_heads=2, d_ff=24, num_layers=2, max_length=32)
    train = TrainConfig(steps=2, validation_examples=0, best="")
    return Experiment(task=Classification(), data=data, model=model, train=train)

run_experiment(__file__)
"""


def publish(directory, config, dtype=None, **others):
    directory.mkdir(exist_ok=True)
    model = config.build(0)
    parameters = {name: np.asarray(value) + 0.1 for name, value in named_parameters(model).items()}
    write_published(directory, config, parameters, dtype=dtype, **others)
    (directory / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    (directory / "README.md").write_text("A card.\n")
    return directory


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    config = bert(**SIZES, head="sequence", num_outputs=2)
    directory = tmp_path_factory.mktemp("published")
    return publish(directory, config, np.dtype(np.float16), labels=["bad", "good"])


@pytest.fixture(scope="module")
def run(classifier, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "classifier"
    assert main(["import", str(classifier), str(directory)]) == 0
    return directory


def test_an_imported_classifier_predicts_and_is_scored(run, classifier, tmp_path, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(LINES) + "\n")
    assert main(["predict", str(run), "--input", str(lines)]) == 0
    predicted = capsys.readouterr().out.split()
    assert predicted == load_published(classifier).predict(LINES) and set(predicted) <= {"bad", "good"}
    (tmp_path / "wanted.txt").write_text("\n".join(predicted) + "\n")
    files = ["--source", str(lines), "--reference", str(tmp_path / "wanted.txt")]
    assert main(["evaluate", str(run), "--json", *files]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["accuracy"] == 100 and scores["checkpoint"] == [0]


def test_an_imported_run_says_where_it_came_from(run):
    kept = {path.name for path in (run / "published").iterdir()}
    assert {"README.md", "config.json", "origin.json"} <= kept and SINGLE not in kept
    origin = json.loads((run / "published" / "origin.json").read_text())
    assert len(origin["sha256"][SINGLE]) == 64


def test_the_file_of_an_imported_run_makes_its_experiment(run):
    found, saved = load_experiment_file(run / "experiment.py"), Run.open(run).experiment
    sizes = {"text": saved.model.vocab_size, "label": saved.model.num_outputs}
    found = dataclasses.replace(found, model=found.task.resolve(found.model, found.data, sizes))
    assert dataclasses.asdict(found) == dataclasses.asdict(saved)


def test_training_from_the_file_of_an_imported_run_can_be_planned(run):
    assert make_plan(load_experiment_file(run / "experiment.py"), jax.devices()[:1]).bytes > 0


def test_a_published_directory_that_is_a_run_too_is_refused_and_runs_no_code(classifier, tmp_path):
    both = shutil.copytree(classifier, tmp_path / "both")
    (both / "experiment.json").write_text('{"class": "Experiment"}')
    (both / "experiment.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="a published model or a run, not both"):
        transformer_jax.load(both)
    assert not (tmp_path / "ran").exists()


def test_a_name_on_the_hub_is_kept_with_its_revision(classifier, tmp_path, monkeypatch):
    snapshot = shutil.copytree(classifier, tmp_path / "snapshots" / "0123abc")
    monkeypatch.setattr(importing, "local_directory", lambda place: snapshot)
    import_run("owner/model", tmp_path / "run")
    origin = json.loads((tmp_path / "run" / "published" / "origin.json").read_text())
    assert (origin["name"], origin["revision"]) == ("owner/model", "0123abc") and origin["sha256"]
    assert "owner/model" in (tmp_path / "run" / "experiment.py").read_text().splitlines()[0]


def test_import_then_export_gives_the_same_tensors(run, classifier, tmp_path):
    assert main(["export", str(run), str(tmp_path / "back")]) == 0
    theirs, ours = read_directory(classifier), read_directory(tmp_path / "back")
    assert theirs.keys() == ours.keys()
    assert all(np.array_equal(theirs[name], ours[name]) and ours[name].dtype == np.float16 for name in theirs)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["id2label"] == {"0": "bad", "1": "good"}
    assert "library_name: transformers" in (tmp_path / "back" / "README.md").read_text()
    assert transformer_jax.load(tmp_path / "back").predict(LINES) == load_published(classifier).predict(LINES)


@pytest.mark.slow
def test_training_begins_from_an_imported_run(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = "\n".join(f"{line}\t{label}" for line, label in zip(LINES * 4, ["x", "y", "z"] * 4, strict=True))
    (tmp_path / "train.tsv").write_text(rows + "\n")
    (tmp_path / "own.py").write_text(TRAIN.replace("DIRECTORY", repr(str(tmp_path))))
    assert main(["train", "own.py", "--train.initialize-from", str(run), "--workdir", "new"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"taken  \d+ parameters as they are", printed)
    assert main(["export", "new", "out", "--dtype", "bfloat16"]) == 0
    assert capsys.readouterr().out == "out: BertForSequenceClassification\n"
    values = json.loads(Path("out/config.json").read_text())
    assert values["id2label"] == {"0": "x", "1": "y", "2": "z"} and values["torch_dtype"] == "bfloat16"


@pytest.mark.slow
def test_fine_tuning_begins_from_a_published_directory_in_one_step(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = "\n".join(f"{line}\t{label}" for line, label in zip(LINES * 4, ["x", "y", "z"] * 4, strict=True))
    (tmp_path / "train.tsv").write_text(rows + "\n")
    other = "d_model=8, num_heads=1, d_ff=8, num_layers=3, positions=NoPositions(), dropout=0.5"
    own = TRAIN.replace("DIRECTORY", repr(str(tmp_path))).replace("TokenizerJson()", "WordPiece(vocab_size=20)")
    own = re.sub(r"bert\(.*?\)", f"bert({other})", own)
    (tmp_path / "own.py").write_text(own)
    published = publish(tmp_path / "published", bert(**SIZES, head="pooled"), np.dtype(np.float16))
    assert main(["plan", "own.py", "--initialize-from", "published", "--topology", "cpu:1"]) == 0
    (count,) = re.findall(r"model: ([\d,]+) parameters", capsys.readouterr().out)
    assert int(count.replace(",", "")) > bert(**SIZES, head="pooled").num_parameters(), "the published sizes"
    command = ["train", "own.py", "--initialize-from", "published", "--workdir", "new"]
    command += ["--model.num-layers", "1", "--optimizer.learning-rate", "1e-9"]
    assert main([*command, "--train.stop-after", "1"]) == 0
    assert "sizes and forms are taken" in capsys.readouterr().out
    run, taken = Run.open("new"), open_published(published).parameters()
    model = run.experiment.model
    assert (model.d_model, model.num_layers, model.vocab_size, model.dropout) == (16, 1, 13, 0.5)
    assert type(model.positions).__name__ == "Learned" and model.head == "sequence" and model.num_outputs == 3
    ours = named_parameters(run.model_of([1]))
    for name, value in taken.items():
        np.testing.assert_allclose(ours[name], value[: len(ours[name])], atol=1e-6, err_msg=name)
    assert ours.keys() - taken.keys() == {"head/kernel", "head/bias"}
    assert not (run.directory / "published" / SINGLE).exists()

    shutil.rmtree(published)  # A run that has begun needs it no more.
    assert main(command) == 0
    assert run.checkpoint_steps() == [2] and "taken" not in capsys.readouterr().out
    assert set(transformer_jax.load("new").classify(LINES)) <= {"x", "y", "z"}
    assert main(["export", "new", "out"]) == 0
    assert capsys.readouterr().out == "out: BertForSequenceClassification\n"
    assert main([*command, "--model.d-ff", "8"]) != 0
    assert "model.d_ff was 24, now 8" in capsys.readouterr().err


def test_a_tokenizer_that_was_trained_here_is_published_with_its_special_tokens(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers, which is compared with, is not installed")
    tokenizer = WordPiece(vocab_size=60).train(LINES * 20)
    write_tokenizer(tokenizer, tmp_path, bert())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = [tokenizer.encode(line) for line in LINES[:2]]
    around = [tokenizer.bos_id, *ids[0], tokenizer.eos_id]
    assert theirs(LINES[0])["input_ids"] == around
    assert theirs(*LINES[:2])["input_ids"] == [*around, *ids[1], tokenizer.eos_id]
    assert theirs.mask_token_id == tokenizer.mask_id and theirs.pad_token_id == tokenizer.pad_id
    assert theirs.model_max_length == bert().reach()


@pytest.mark.parametrize("task", [TextVectors(normalise=True), TextVectors(pooling="first")], ids=["mean", "first"])
def test_how_vectors_are_made_is_published_beside_the_model(task, tmp_path):
    publish(tmp_path / "old", bert(**SIZES, head="none"))
    write_pooling(tmp_path / "old", task, 16, 20)
    run = import_run(tmp_path / "old", tmp_path / "run")
    assert run.experiment.task == task and run.experiment.data.max_length == 20
    transformer_jax.export(run.model_of([0]), tmp_path / "new", like=tmp_path / "old")
    export_run(run, tmp_path / "again")
    old, *others = (transformer_jax.load(tmp_path / name) for name in ("old", "new", "again"))
    for other in others:
        assert other.embed(LINES) == old.embed(LINES)
        with pytest.raises(ValueError, match="more than the 20"):
            other.embed(["a " * 30])


def test_a_failed_import_leaves_nothing_behind(classifier, tmp_path):
    with pytest.raises(ValueError, match="is there already"):
        import_run(classifier, tmp_path)
    (classifier / "vocab.txt").rename(classifier / "kept")
    try:
        with pytest.raises(FileNotFoundError, match=r"tokenizer.json"):
            import_run(classifier, tmp_path / "new")
    finally:
        (classifier / "kept").rename(classifier / "vocab.txt")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("names", [["a", "a"], ["a", ""], ["a", " b"], ["a", "b\nc"], ["a", "\ud800"], ["a", {}]])
def test_labels_that_no_text_could_have_are_refused(names, classifier, tmp_path):
    shutil.copytree(classifier, tmp_path / "published")
    values = json.loads((classifier / "config.json").read_text())
    values["id2label"] = {"0": names[0], "1": names[1]}
    (tmp_path / "published" / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="label"):
        import_run(tmp_path / "published", tmp_path / "new")


def test_a_label_of_a_word_has_no_white_space(tmp_path):
    publish(tmp_path / "new", bert(**SIZES, head="tokens", num_outputs=2), labels=["O", "a b"])
    with pytest.raises(ValueError, match="white space"):
        open_published(tmp_path / "new").labels()


@pytest.mark.parametrize("options", [[], ["--stablehlo", "8"]])
def test_a_failed_export_leaves_nothing_behind(options, run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(TokenizerJsonTokenizer, "write_published", full)
        patched.setattr(TokenizerJsonTokenizer, "save", full)
        assert main(["export", str(run), str(tmp_path / "out"), *options]) in (1, 2)
    assert not (tmp_path / "out").exists()


def test_a_loaded_language_model_generates(tmp_path):
    config = llama(**SIZES | {"d_ff": 16}, num_kv_heads=1)
    publish(tmp_path, config)
    model, tokenizer = transformer_jax.load(tmp_path)
    assert model.embedding.vocab_size == tokenizer.vocab_size == 13
    assert tokenizer.decode(tokenizer.encode("good films")) == "good films"


def test_a_loaded_language_model_answers_by_its_chat_template(tmp_path, capsys):
    pytest.importorskip("jinja2", reason="renders chat templates")
    publish(tmp_path / "model", llama(**SIZES | {"d_ff": 16}, num_kv_heads=1))
    with pytest.raises(ValueError, match="no chat template"):
        load_published(tmp_path / "model").chat([[{"role": "user", "content": "good"}]])
    (tmp_path / "model" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} films {% endfor %}")
    model = load_published(tmp_path / "model")
    (answer,) = model.chat(
        [[{"role": "user", "content": "bad"}, {"role": "user", "content": "good"}]], max_new_tokens=4
    )
    prompt = model.tokenizer.encode("bad films good films ")
    assert answer == model.changed(max_new_tokens=4)._continuations([prompt])[0]
    assert main(["import", str(tmp_path / "model"), str(tmp_path / "run")]) == 0
    (tmp_path / "lines.txt").write_text("good\n")
    options = ["--input", str(tmp_path / "lines.txt"), "--chat", "--task.generation.max-new-tokens", "3"]
    assert main(["predict", str(tmp_path / "run"), *options]) == 0
    assert main(["predict", str(tmp_path / "run"), *options, "--scores"]) == 2
    assert "--chat" in capsys.readouterr().err


def test_a_run_becomes_programs_with_parameters_and_tokenizer(run, tmp_path, capsys):
    pytest.importorskip("flatbuffers", reason="writes programs")
    assert main(["export", str(run), str(tmp_path / "programs"), "--stablehlo", "8"]) == 0
    files = {"forward.stablehlo", SINGLE, "text.json", "programs.json"}
    assert {path.name for path in (tmp_path / "programs").iterdir()} == files
    facts = json.loads((tmp_path / "programs" / "programs.json").read_text())
    assert (facts["length"], facts["text"]["end"], facts["label"]) == (8, 3, ["bad", "good"])
    parameters = read_tensors(tmp_path / "programs" / SINGLE)
    tokens, lengths = jnp.array([[2, 5, 6, 3, 0, 0, 0, 0]]), jnp.array([4])
    forward = jax.export.deserialize(bytearray((tmp_path / "programs" / "forward.stablehlo").read_bytes()))
    model = Run.open(run).model_of([0])
    np.testing.assert_allclose(forward.call(parameters, tokens, lengths), model(tokens, lengths=lengths), atol=1e-5)
    assert main(["export", str(run), str(tmp_path / "programs"), "--stablehlo", "8"]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.fixture(scope="module")
def writers(tmp_path_factory):
    """A published language model and a published translator."""
    decoder, other = llama(**SIZES | {"d_ff": 16}, num_kv_heads=1), base(**SIZES, **MARIAN)
    return {
        "generation": publish(tmp_path_factory.mktemp("llama"), decoder),
        "decoding": publish(tmp_path_factory.mktemp("marian"), other, family="marian"),
    }


def said(directory, ignore=(), **values) -> Any:
    """What a task's field is after a generation_config.json with these keys."""
    (directory / FILE).write_text(json.dumps({"pad_token_id": 0, "eos_token_id": 3, **values}))
    return experiment_for(open_published(directory), ignore=ignore)[0].task


def test_published_generation_becomes_fields_of_the_task(writers):
    task = said(writers["generation"], do_sample=True, temperature=0.6, top_p=0.9, max_new_tokens=7)
    assert task.generation == Generation(max_new_tokens=7, sampling=Sampling(temperature=0.6, top_k=50, top_p=0.9))
    task = said(writers["generation"], do_sample=False, repetition_penalty=1.2, length_penalty=2.0, num_beams=1)
    assert task.generation == Generation(sampling=Sampling(temperature=0.0, repetition_penalty=1.2))
    assert said(writers["generation"]).generation == Generation(sampling=Sampling(temperature=0.0))
    assert said(writers["decoding"]).decoding == Decoding(beam_size=1)
    assert said(writers["decoding"], min_new_tokens=2, min_length=10).decoding.min_length == 2
    words = {"bad_words_ids": [[0]], "forced_eos_token_id": 3, "max_length": 512, "num_beams": 6}
    task = said(writers["decoding"], length_penalty=2.0, early_stopping=True, no_repeat_ngram_size=3, **words)
    rules = {"beam_size": 6, "length_penalty": 2.0, "length_rule": "length"}
    assert task.decoding == Decoding(**rules, stopping="fairseq", no_repeat_ngram=3)
    task = said(writers["decoding"], min_length=9, forced_bos_token_id=5, suppress_tokens=[0, 6], **words)
    rules |= {"length_penalty": 1.0, "stopping": "transformers", "min_length": 7, "suppressed": (PIECES[6],)}
    assert task.decoding == Decoding(**rules) and task.target_start == PIECES[5]
    summary = {"max_length": 9, "forced_eos_token_id": 3}
    assert said(writers["decoding"], **summary).decoding.max_new_tokens == 8
    assert said(writers["decoding"], forced_bos_token_id=5, **summary).decoding.max_new_tokens == 7
    task = said(writers["generation"], num_beams=2, do_sample=False, early_stopping="never", min_new_tokens=2)
    assert task.generation.stopping == "tensor2tensor" and task.generation.min_length == 2
    task = said(writers["generation"], eos_token_id=[3, 5])
    assert task.generation.end_tokens == (PIECES[5],)
    searched = said(writers["generation"], eos_token_id=[3, 5], num_beams=2, do_sample=False).generation
    assert searched.end_tokens == (PIECES[5],) and searched.beam_size == 2
    assert said(writers["generation"], eos_token_id=5).generation.end_tokens == (PIECES[5],)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("<s> $A </s>", ("<s>", "", True)),  # BART
        ("$A </s> <en>", ("", "<en>", True)),  # mBART
        ("<en> $A </s>", ("<en>", "", True)),  # NLLB
        ("<s> $A", ("<s>", "", False)),  # T5Gemma
        ("$A </s>", ("", "", True)),
    ],
)
def test_what_a_published_tokenizer_puts_around_texts_stands_around_sources(template, expected, tmp_path):
    words = {"</s>": 0, "<s>": 1, "<en>": 2, "a": 3, "b": 4}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="b"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = [(name, number) for name, number in words.items() if name in template]
    backend.post_processor = tokenizers.processors.TemplateProcessing(template, special_tokens=special)
    backend.save(str(tmp_path / "tokenizer.json"))
    config = TokenizerJson(path=str(tmp_path))
    task = with_source(Translation(), config.train([]))
    assert (task.source_start, task.source_end, task.source_eos) == expected
    tokenizer = config.train([])
    columns = task.encode({"source": tokenizer, "target": tokenizer}, [{"source": "b a", "target": "a"}], max_length=9)
    assert columns["source"] == [backend.encode("b a").ids] and columns["target"] == [[tokenizer.bos_id, 3, 0]]


def test_fine_tuning_has_the_same_around_sources_unless_its_experiment_says_otherwise(writers, tmp_path):
    place = shutil.copytree(writers["decoding"], tmp_path / "model")
    (place / "vocab.txt").unlink()
    words = {name: number for number, name in enumerate(PIECES)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    special = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=special)
    backend.save(str(place / "tokenizer.json"))
    data = DataConfig(source=Files(), tokenizer=TokenizerJson())
    for own, expected in (("", "[CLS]"), ("good", "good")):
        train = TrainConfig(initialize_from=str(place))
        asked = Experiment(task=Translation(source_start=own), data=data, model=base(), train=train)
        task: Any = with_published(asked, tmp_path / "run").task
        assert task.source_start == expected and task.source_eos


def test_more_around_a_text_than_a_source_has_places_for_is_refused(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"</s>": 0, "<s>": 1, "a": 2}, unk_token="a"))
    backend.post_processor = tokenizers.processors.TemplateProcessing("<s> <s> $A", special_tokens=[("<s>", 1)])
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"read as <s> <s> \.\.\., with more tokens"):
        with_source(Translation(), TokenizerJson(path=str(tmp_path)).train([]))


@pytest.mark.parametrize(
    ("kind", "key", "others"),
    [
        ("decoding", "early_stopping", {"early_stopping": 3, "num_beams": 4}),
        ("decoding", "eos_token_id", {"eos_token_id": [3, 5]}),
        ("decoding", "decoder_start_token_id", {"decoder_start_token_id": 5}),
        ("decoding", "suppress_tokens or bad_words_ids", {"suppress_tokens": [3]}),
        ("generation", "forced_bos_token_id", {"forced_bos_token_id": 5}),
        ("decoding", "max_length", {"max_length": 4}),
        ("decoding", "bad_words_ids", {"bad_words_ids": [[5, 6]]}),
        ("decoding", "encoder_no_repeat_ngram_size", {"encoder_no_repeat_ngram_size": 3}),
        ("generation", "min_length", {"min_length": 2}),
        ("generation", "do_sample", {"do_sample": True, "num_beams": 2}),
        ("generation", "suppress_tokens or bad_words_ids", {"suppress_tokens": [99]}),
        ("decoding", "forced_bos_token_id", {"forced_bos_token_id": 12}),
        ("generation", "a_new_key", {"a_new_key": 1}),
    ],
)
def test_what_generation_has_no_field_for_is_refused_by_name(kind, key, others, writers):
    with pytest.raises(ValueError, match=rf"{FILE}: {key} .*--ignore"):
        said(writers[kind], **others)
    said(writers[kind], ignore=key.split(" or "), **others)


def test_without_its_own_file_generation_is_read_from_the_configuration(writers):
    (writers["generation"] / FILE).unlink(missing_ok=True)
    path = writers["generation"] / "config.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"max_new_tokens": 3, "top_k": 5}))
    task: Any = experiment_for(open_published(writers["generation"]))[0].task
    path.write_text(before)
    assert task.generation.max_new_tokens == 3 and task.generation.sampling.top_k == 5


@pytest.fixture(scope="module")
def models():
    """Published models with trained weights: in the directory TRANSFORMER_JAX_MODELS, or `shared/models` beside."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "models"
    directory = Path(os.environ.get("TRANSFORMER_JAX_MODELS", beside))
    if not directory.is_dir():
        pytest.skip(f"no published models at {directory}: name their directory in TRANSFORMER_JAX_MODELS")
    return directory


def test_smollm_is_asked_as_in_transformers(models):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    directory = str(models / "SmolLM2-135M-Instruct")
    talk = [
        {"role": role, "content": text} for role, text in (("user", "What?"), ("assistant", "No."), ("user", "日本?"))
    ]
    tokenizer = TokenizerJson(directory).train([])
    (text,) = render(*tokenizer.chat_template(), [talk])
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    assert tokenizer.encode(text) == theirs.apply_chat_template(talk, add_generation_prompt=True)["input_ids"]


def test_minilm_gives_the_recorded_vectors(models):
    directory = models / "all-MiniLM-L6-v2"
    expected = json.loads((directory / "expected.json").read_text())
    encoder = transformer_jax.load(directory)
    assert encoder.encoded(expected["sentences"]) == expected["input_ids"]
    found = np.array(encoder.embed(expected["sentences"]))
    np.testing.assert_allclose(found, np.array(expected["embeddings"]), atol=1e-5)
    with pytest.raises(ValueError, match="more than the 256"):  # as its sentence_bert_config.json says
        encoder.embed(["word " * 300])
    tokens = jnp.array(expected["input_ids"][:1])
    pooled = encoder.model(tokens)[0]
    np.testing.assert_allclose(np.asarray(pooled), expected["pooler_output_of_sentence_0"], atol=1e-5)


def prompts(directory):
    return [item for item in json.loads((directory / "expected.json").read_text())["items"] if "prompt" in item]


def test_smollm_has_the_recorded_tokens(models):
    directory = models / "SmolLM2-135M-Instruct"
    tokenizer = TokenizerJson(path=str(directory)).train([])
    assert not tokenizer.starts
    for item in prompts(directory):
        assert tokenizer.encode(item["prompt"]) == item["input_ids"]


@pytest.mark.slow
def test_smollm_continues_as_recorded(models):
    directory = models / "SmolLM2-135M-Instruct"
    if not (directory / SINGLE).is_file():
        pytest.skip(f"{directory} has no weights: its make.py writes them")
    generator = transformer_jax.load(directory).changed(temperature=0.0, max_new_tokens=8)
    logits = jax.jit(lambda model, tokens: model(tokens)[0, -1])
    for item in prompts(directory):
        found = np.asarray(logits(generator.model, jnp.array([item["input_ids"]])))
        recorded = item.get("last_logits_top5", [])
        np.testing.assert_allclose(found[item.get("last_logits_top5_ids", [])], recorded, atol=2e-3)
        continued = item["greedy_ids"][len(item["input_ids"]) :][:8]
        assert generator.generate([item["prompt"]])[0] == generator.tokenizer.decode(continued)
