"""Transcription by windows, beside transformers: a small random model, and Whisper's published weights with --slow."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.cli.main import main
from transformer_jax.data.audio import read_audio
from transformer_jax.decoding import growth
from transformer_jax.interop.published import open_published
from transformer_jax.interop.tensor_files import read_directory
from transformer_jax.nn.log_mel import LogMel
from transformer_jax.nn.parameters import replace_parameters
from transformer_jax.runs.published_run import experiment_for, load_published
from transformer_jax.tasks import transcription
from transformer_jax.tasks.audio import AudioAugmentation
from transformer_jax.tasks.scores import text_scores
from transformer_jax.tasks.transcription import Segment, Transcription

WINDOW = 40
SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|cs|>", "<|translate|>", "<|transcribe|>")
SPECIAL += ("<|nospeech|>", "<|notimestamps|>")
END, BEGIN = 256, 256 + len(SPECIAL)
TIMES = WINDOW // 2 + 1


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A small random model of two languages, with its tokenizer of bytes: theirs, and its directory."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    directory = tmp_path_factory.mktemp("whisper")
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    letters = {letter: number for number, letter in enumerate(sorted(byte_level.alphabet()))}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(letters, []))
    backend.pre_tokenizer, backend.decoder = byte_level(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    backend.add_special_tokens([*SPECIAL])
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": SPECIAL[0], "pad_token": SPECIAL[0]}))
    sizes = {
        f"{side}_{name}": size
        for side in ("encoder", "decoder")
        for name, size in {"layers": 1, "attention_heads": 2, "ffn_dim": 24}.items()
    }
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        **sizes, d_model=16, num_mel_bins=8, vocab_size=BEGIN + TIMES, max_source_positions=WINDOW // 2,
        max_target_positions=24, init_std=0.7, pad_token_id=END, bos_token_id=END + 1, eos_token_id=END,
        decoder_start_token_id=END + 1, begin_suppress_tokens=None,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config).eval()
    generation = {"suppress_tokens": [3, 4], "begin_suppress_tokens": [5, END], "max_length": 24}
    generation |= {"lang_to_id": {"<|en|>": END + 2, "<|cs|>": END + 3}, "is_multilingual": True}
    generation |= {"task_to_id": {"translate": END + 4, "transcribe": END + 5}, "no_timestamps_token_id": BEGIN - 1}
    generation |= {"max_initial_timestamp_index": 5, "pad_token_id": END, "eos_token_id": END, "bos_token_id": END + 1}
    generation |= {"decoder_start_token_id": END + 1, "prev_sot_token_id": None, "return_timestamps": False}
    model.generation_config = transformers.GenerationConfig(**generation)
    model.save_pretrained(directory)
    return model, directory


@pytest.fixture(scope="module")
def predictor(whisper):
    """Ours, which does not try again what has failed, as all that a random model writes has."""
    loaded = load_published(whisper[1])
    loaded.how = replace(loaded.how, temperatures=(0.0,), silence=1.0)
    return loaded


def noise(frames, seed=0):
    samples = np.random.default_rng(seed).normal(size=frames * 160)
    return (samples * np.linspace(0.01, 0.3, frames * 160)).astype(np.float32)


@pytest.mark.parametrize("timed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_window_is_written_as_in_transformers(timed, whisper, predictor, monkeypatch):
    torch, theirs = pytest.importorskip("torch"), whisper[0]
    monkeypatch.setattr(growth, "ROOM", 4)  # its cache grows
    write: Any = transcription._write
    write.clear_cache()
    windows = [np.asarray(predictor.log_mel(jnp.asarray(noise(WINDOW, seed))[None])[0][0]) for seed in range(5)]
    features = torch.tensor(np.stack(windows).transpose(0, 2, 1).copy())
    asked: dict[str, Any] = {"return_timestamps": timed, "force_unique_generate_call": True, "task": "transcribe"}
    for language in ("en", "cs", ""):
        expected = theirs.generate(features, language=language or None, **asked).tolist()
        prompts = predictor.prompts(windows, language, "transcribe")
        assert prompts.tolist() == [row[:3] for row in expected] or language
        texts = predictor.written(windows, prompts, timed=timed)
        for text, row in zip(texts, expected, strict=True):
            right = [token for token in row[3 + (not timed) :] if token != END]
            assert text == right[: len(text)] and len(text) >= len(right) - 1
        assert len({*map(tuple, texts)}) > 1 and max(map(len, texts)) > 12


def test_the_vector_of_a_recording_is_the_mean_of_what_stands_for_its_sound(whisper, predictor):
    torch, theirs = pytest.importorskip("torch"), whisper[0]
    sounds = [noise(WINDOW), noise(WINDOW // 3)]
    window = np.stack([np.pad(sound, (0, WINDOW * 160 - len(sound))) for sound in sounds])
    features = np.asarray(predictor.log_mel(jnp.asarray(window))[0])
    with torch.no_grad():
        vectors = theirs.model.encoder(torch.tensor(features.transpose(0, 2, 1).copy())).last_hidden_state.numpy()
    count = -(-vectors.shape[1] // 3)
    expected = [vectors[0].mean(axis=0), vectors[1, :count].mean(axis=0)]
    np.testing.assert_allclose(predictor.embed(sounds), expected, atol=1e-3)  # samples have 16 bits
    with pytest.raises(ValueError, match="line 1: .* is a recording of"):
        predictor.embed([noise(2 * WINDOW), *sounds])


def test_windows_slide_by_times_and_recordings_do_not_disturb_each_other(predictor, monkeypatch):
    """The text of each window is stated here: that of a whole one ends within a segment."""
    windows_of_calls = []

    def written(windows, prompts, *, timed):
        windows_of_calls.append(len(windows))
        assert timed and len(windows) == len(prompts) and all(window.shape == (WINDOW, 8) for window in windows)
        whole = [BEGIN, 72, BEGIN + 10, BEGIN + 10, 73]
        return [whole if len(windows_of_calls) < 3 else [BEGIN, 74, BEGIN + 2] for _ in windows]

    with monkeypatch.context() as patch:
        patch.setattr(predictor, "written", written)
        (long, short) = predictor.segments([noise(50), noise(35)], timestamps=True, language="en")
    letter = predictor.tokenizer.decode
    first = Segment(0.0, 0.2, letter([72]))
    assert long == [first, Segment(0.2, 0.4, letter([72])), Segment(0.4, 0.44, letter([74]))]
    assert short == [first, Segment(0.2, 0.4, letter([72]))]
    assert windows_of_calls == [2, 2, 1]
    together = predictor.segments([noise(50), noise(35), noise(0), noise(90, seed=1)], language="cs")
    assert together[2] == [] and predictor.segments([], language="cs") == []
    for recording, found in ((noise(50), together[0]), (noise(35), together[1]), (noise(90, seed=1), together[3])):
        assert predictor.segments([recording], language="cs") == [found]


def test_what_fails_is_tried_again_and_silence_is_left_out(predictor, monkeypatch):
    cold = predictor.transcribe([noise(30)], language="en")
    for least, same in ((-1.0, False), (-99.0, True)):
        how = replace(predictor.how, silence=1.0, temperatures=(0.0, 1.0), min_log_prob=least, max_compression=99.0)
        monkeypatch.setattr(predictor, "how", how)
        found = predictor.transcribe([noise(30)], language="en")
        assert (found == cold) == same and found == predictor.transcribe([noise(30)], language="en")
    monkeypatch.setattr(predictor, "how", replace(predictor.how, silence=0.0, min_log_prob=-0.1))
    assert predictor.transcribe([noise(30)], language="en") == [""]


@pytest.mark.parametrize("asked", [{"language": "de"}, {"task": "translated"}])
def test_what_the_model_does_not_know_is_refused(asked, predictor):
    with pytest.raises(ValueError, match="it knows cs, en"):
        predictor.transcribe([noise(20)], **asked)


def test_attention_is_that_to_the_frames_of_a_recording_by_what_predicts_each_word(predictor, monkeypatch):
    monkeypatch.setattr(predictor, "how", replace(predictor.how, language="cs"))
    found = predictor.attention(noise(21), "ab cd")
    assert found.words == ["ab", "cd"] and found.weights.shape == (1, 2, 2, 11) and found.features.shape == (21, 8)
    samples = np.zeros(2 * WINDOW * 160, np.float32)
    samples[: 21 * 160] = noise(21).clip(-1, 1)
    features = predictor.log_mel(jnp.asarray(samples)[None])[0][:, :WINDOW]
    tokens = jnp.array([[END + 1, END + 3, END + 5, BEGIN - 1, *predictor.tokenizer.encode(" ab cd")]])
    model = predictor.model
    inside = model.decode(tokens, model.encode(features), intermediates=True).intermediates
    expected = inside.attention["cross_attention"][:, 0, :, :, :11]
    np.testing.assert_allclose(found.weights[:, :, 0], expected[:, :, 3:6].mean(axis=2), atol=1e-5)
    np.testing.assert_allclose(found.weights[:, :, 1], expected[:, :, 6:9].mean(axis=2), atol=1e-5)


def test_an_imported_run_transcribes_files_learns_and_goes_back(whisper, predictor, tmp_path, capsys):
    soundfile, directory = pytest.importorskip("soundfile"), whisper[1]
    for name, frames in (("one.wav", 30), ("two.flac", 70)):
        soundfile.write(tmp_path / name, noise(frames), 16_000)
    assert main(["import", str(directory), str(tmp_path / "run")]) == 0
    files = [str(tmp_path / "one.wav"), str(tmp_path / "two.flac")]
    options = ["--task.transcribing.temperatures", "0", "--task.transcribing.silence", "1"]
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), *files, *options, "--task.transcribing.language", "cs"]) == 0
    expected = [text.replace("\n", " ") for text in predictor.transcribe(files, language="cs")]
    named = [f"{file}\t{text}" for file, text in zip(files, expected, strict=True)]
    assert capsys.readouterr().out.split("\n")[:-1] == named

    assert main(["attention", str(tmp_path / "run"), files[0], "--target", "one two", *options]) == 0
    assert capsys.readouterr().out.startswith(f"{files[0]} -> one two") and (
        (tmp_path / "run" / "attention" / "attention.png").stat().st_size > 1000
    )

    assert main(["export", str(tmp_path / "run"), str(tmp_path / "back")]) == 0
    theirs, ours = read_directory(directory), read_directory(tmp_path / "back")
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        np.testing.assert_allclose(ours[name], tensor, atol=1e-6 if "encoder.embed_positions" in name else 0)
    assert json.loads((tmp_path / "back" / "preprocessor_config.json").read_text())["feature_size"] == 8
    generation = [(place / "generation_config.json").read_bytes() for place in (directory, tmp_path / "back")]
    assert generation[0] == generation[1]


def test_the_loss_is_that_of_transformers_for_a_window_with_silence_behind(whisper):
    torch, theirs = pytest.importorskip("torch"), whisper[0]
    experiment, vocabularies = experiment_for(open_published(whisper[1]))
    unnamed: Any = experiment.task
    tokenizer: Any = vocabularies["text"]
    task = replace(unnamed, transcribing=replace(unnamed.transcribing, language="cs"))
    model = task.resolve(experiment.model, experiment.data, {"text": tokenizer.vocab_size}).build(0)
    model = replace_parameters(model, open_published(whisper[1]).parameters())
    encoded = task.encode(vocabularies, [{"audio": noise(17), "text": "Ahoj"}], max_length=WINDOW)
    (target,) = encoded["text"]
    assert target == [END + 1, END + 3, END + 5, BEGIN - 1, *tokenizer.encode(" Ahoj"), END]
    assert target[task.prompt_size : -1] == tokenizer.encode(" Ahoj")
    batch = {name: jnp.asarray(values) for name, values in encoded.items()}
    batch |= {"text_length": jnp.array([len(target)]), "example": jnp.array([0])}
    (nll, weight) = jax.jit(task.loss)(model, batch, None)["nll"]
    samples = np.zeros(WINDOW * 160, np.float32)
    samples[: 17 * 160] = noise(17).clip(-1, 1)
    features = task.log_mel(jnp.asarray(samples)[None])[0]
    labels = torch.tensor(target)[None]
    logits = theirs(torch.tensor(np.array(features).transpose(0, 2, 1)), decoder_input_ids=labels[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(logits[0], labels[0, 1:])
    assert weight == len(target) - 1 and nll / weight == pytest.approx(expected.item(), abs=1e-4)
    with pytest.raises(ValueError, match="language is one of cs, en"):
        unnamed.encode(vocabularies, [{"audio": noise(17), "text": "Ahoj"}], max_length=WINDOW)


def test_random_changes_are_of_the_recording_and_the_window_stays_whole():
    quiet = Transcription(window=WINDOW, log_mel=LogMel(num_mels=8))
    task = replace(quiet, augmentation=AudioAugmentation(time_masks=2, time_width=9))
    audio = np.zeros((4, WINDOW + 4, 160), np.int16)  # wider than the window, as batches are
    audio[:, :17] = np.round(noise(17).clip(-1, 1) * 2**15).reshape(17, 160).clip(-(2**15), 2**15 - 1)
    batch = {"audio": jnp.asarray(audio), "samples": jnp.full(4, 17 * 160), "example": jnp.arange(4)}
    (plain, all_frames), (masked, frames) = quiet.read(batch, None), task.read(batch, jax.random.key(0))
    assert all_frames.tolist() == frames.tolist() == [WINDOW] * 4
    hidden = (np.asarray(plain) != np.asarray(masked)).any(axis=2)
    assert hidden[:, :17].any() and not hidden[:, 17:].any()


@pytest.fixture(scope="module")
def published():
    """The directory of Whisper's published weights, in TRANSFORMER_JAX_MODELS or `shared/models` beside."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "models"
    directory = Path(os.environ.get("TRANSFORMER_JAX_MODELS", beside)) / "whisper-tiny.en"
    if not directory.is_dir():
        pytest.skip(f"no published model at {directory}: name its directory in TRANSFORMER_JAX_MODELS")
    return directory


@pytest.mark.slow
def test_published_weights_write_what_they_wrote_in_transformers(published, shared_data):
    """The 33 recordings have 44 errors in 595 words, as was recorded."""
    items = json.loads((published / "expected.json").read_text())["items"]
    found = load_published(published).predict([str(shared_data.parent / item["file"]) for item in items])
    assert found == [item["hf_generate_text"].strip() for item in items]
    errors = text_scores(found, [[item["reference"]] for item in items], ("wer",))["wer"] * 595 / 100
    assert errors == pytest.approx(44, abs=3), "by another normalisation"


@pytest.mark.slow
def test_44_seconds_are_written_as_in_transformers(published, shared_data):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    file = shared_data / "speech" / "sentences" / "two_cities.wav"
    samples = read_audio(file, 16_000)
    found = load_published(published).segments([samples])[0]
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(published, dtype=torch.float32).eval()
    asked = {"truncation": False, "padding": "longest", "return_attention_mask": True, "return_tensors": "pt"}
    read = transformers.WhisperFeatureExtractor()(samples, sampling_rate=16_000, **asked)
    settings = {"return_timestamps": True, "return_segments": True}
    segments = theirs.generate(read.input_features, attention_mask=read.attention_mask, **settings)["segments"][0]
    assert len(segments) == len(found) == 10
    decode = load_published(published).tokenizer.decode
    for ours, right in zip(found, segments, strict=True):
        assert ours.text == decode([token for token in right["tokens"].tolist() if token < 50_256])
        assert (ours.start, ours.end) == pytest.approx((float(right["start"]), float(right["end"])))
