"""Recordings of every form are read right; what is damaged or too large is counted and skipped."""

import io
import struct
from collections import Counter

import numpy as np
import pytest

from transformer_jax.data import audio
from transformer_jax.data.audio import AudioFolders, AudioTable, TooLong, encode_audio, read_audio
from transformer_jax.data.columns import Column
from transformer_jax.data.examples import Unreadable, decodable, readable
from transformer_jax.data.labels import Labels
from transformer_jax.data.table import encode_table
from transformer_jax.tasks.audio_classification import AudioClassification

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

SECONDS = 0.5


def tone(rate, pitch=440.0):
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(SECONDS * rate)) / rate)


def file_of(samples, rate=16_000, form="WAV", kind=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=kind)
    return file.getvalue()


FORMS = {
    "16 bits": file_of(tone(16_000)),
    "8 bits": file_of(tone(16_000), kind="PCM_U8"),
    "24 bits": file_of(tone(16_000), kind="PCM_24"),
    "floats": file_of(tone(16_000), kind="FLOAT"),
    "mu-law": file_of(tone(16_000), kind="ULAW"),
    "stereo": file_of(np.stack([2 * tone(16_000), 0 * tone(16_000)], axis=1)),
    "8 kHz": file_of(tone(8_000), 8_000),
    "44.1 kHz": file_of(tone(44_100), 44_100),
    "48 kHz stereo FLAC": file_of(np.stack([tone(48_000)] * 2, axis=1), 48_000, "FLAC"),
    "Ogg": file_of(tone(16_000), form="OGG"),
    "MP3": file_of(tone(16_000), form="MP3"),
}
LONG_OGG = file_of(np.tile(tone(16_000), 8), form="OGG")
STREAMED = FORMS["16 bits"][:40] + struct.pack("<I", 2**32 - 1) + FORMS["16 bits"][44:]
HUGE = FORMS["16 bits"][:24] + struct.pack("<I", 1) + FORMS["16 bits"][28:]  # one sample a second
DAMAGED = {
    "nothing": b"",
    "text": b"no sound at all",
    "cut off": FORMS["16 bits"][:4_000],
    "cut off FLAC": FORMS["48 kHz stereo FLAC"][: len(FORMS["48 kHz stereo FLAC"]) // 2],
    "cut off Ogg": FORMS["Ogg"][: len(FORMS["Ogg"]) // 2],
    "Ogg without its last page": LONG_OGG[: LONG_OGG.rfind(b"OggS")],
    "Ogg with half of its last page": LONG_OGG[:-200],
    "RF64": file_of(tone(16_000), form="RF64"),
    "cut off MP3": FORMS["MP3"][: len(FORMS["MP3"]) // 2],
    "no numbers": file_of(np.full(8_000, np.nan), kind="FLOAT"),
    "huge": HUGE,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read_to_its_samples(form):
    samples, expected = read_audio(FORMS[form], 16_000), tone(16_000)
    assert samples.dtype == np.float32 and abs(len(samples) - len(expected)) <= 1
    middle = slice(1_000, 7_000)  # filters and codecs are free at the ends
    near = {"Ogg": 0.03, "MP3": 0.03, "8 bits": 0.01, "mu-law": 0.02}.get(form, 2e-3)
    assert np.abs(samples[middle] - expected[middle]).max() < near


def test_samples_of_16_bits_stay_as_they_are_and_what_is_beyond_is_clipped():
    random = np.random.default_rng(0).integers(-(2**15), 2**15, 4_001).astype(np.int16)
    expected = np.pad(random, (0, -4_001 % 160)).reshape(-1, 160)
    for sound in (file_of(random), random, random.astype(np.int64), random / 2**15):
        found, count = encode_audio(sound, 16_000)
        np.testing.assert_array_equal(found, expected)
        assert (count, found.dtype) == (4_001, np.int16)
    clipped, _ = encode_audio(file_of(np.linspace(-3, 3, 16_000), kind="FLOAT"), 16_000)
    assert (clipped.min(), clipped.max()) == (-(2**15), 2**15 - 1) and (
        np.diff(clipped.reshape(-1).astype(int)) >= 0
    ).all()


@pytest.mark.parametrize(
    "samples", [np.ones((16_000, 2)), np.full(16_000, 2**20), np.array(["a"]), np.ones(9, complex)]
)
def test_arrays_that_are_no_row_of_samples_are_refused(samples):
    with pytest.raises(ValueError, match="no sound: samples are a row of 16-bit integers, or of floats"):
        encode_audio(samples, 16_000)


def test_half_precision_and_several_blocks_are_read_as_they_are(monkeypatch):
    assert encode_audio(np.ones(16_000, np.float16), 16_000)[0].min() == 2**15 - 1
    whole = read_audio(FORMS["44.1 kHz"], 16_000)
    monkeypatch.setattr(audio, "BLOCK", 1_000)
    np.testing.assert_array_equal(read_audio(FORMS["44.1 kHz"], 16_000), whole)


def test_what_is_too_long_is_not_decoded(monkeypatch):
    with pytest.raises(TooLong, match="8,000 samples at 16,000 Hz are more than 7,000 at 16,000"):
        read_audio(FORMS["16 bits"], 16_000, 7_000)
    task, examples = AudioClassification(), [{"audio": FORMS["16 bits"], "label": "a"}]
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    (found,) = task.encode({"label": Labels(names=("a",))}, examples, max_length=40)["audio"]
    assert found.shape == (41, 160) and found.strides == (0, 0), "one more than fits, of one number"


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_are_refused(kind):
    with pytest.raises(ValueError, match="no sound: "):
        read_audio(DAMAGED[kind], 16_000)


def test_a_streamed_file_without_its_length_is_read():
    np.testing.assert_array_equal(read_audio(STREAMED, 16_000), read_audio(FORMS["16 bits"], 16_000))


@pytest.fixture
def folder(tmp_path):
    for number, (name, data) in enumerate((FORMS | DAMAGED).items()):
        (tmp_path / f"{name.replace(' ', '_')}_{number % 3}.wav").write_bytes(data)  # most are no .wav
    (tmp_path / "short_1.wav").write_bytes(file_of(tone(16_000)[:300]))
    (tmp_path / "notes_1.txt").write_text("no sound")
    return tmp_path


def test_files_are_split_by_patterns_of_their_names_and_labelled_by_them(folder):
    source = AudioFolders(str(folder), ("*_*",), ("*_0.*", "*_1.*"), ("*_1.*",), label=r"_(\d)\.")
    parts = {split: [path.name for path in source.files(split)] for split in source.splits}
    assert {split: {name[-5] for name in names} for split, names in parts.items()} == {
        "train": {"2"},
        "validation": {"0"},
        "test": {"1"},
    }
    assert sum(map(len, parts.values())) == len(FORMS) + len(DAMAGED) + 1
    assert {example["label"] for example in source.examples("test")} == {"1"}
    (folder / "some.txt").write_text("8_bits_1.wav\n16_bits_0.wav\n")
    listed = AudioFolders(str(folder), ("some.txt",), label="^([a-z0-9]+)")
    assert [example["label"] for example in listed.examples("train")] == ["8", "16"]
    with pytest.raises(ValueError, match=r"finds no group in .*_bits"):
        list(AudioFolders(str(folder), ("some.txt",), label="^x()").examples("train"))


def test_a_list_names_each_file_of_the_directory_once(folder):
    (folder / "twice.txt").write_text("Ogg_0.wav\n./Ogg_0.wav\n")
    assert len(AudioFolders(str(folder), ("twice.txt",), label="(.)").files("train")) == 1
    (folder / "outside.txt").write_text("../Ogg.wav\n")
    with pytest.raises(ValueError, match="is not in data.source.directory"):
        AudioFolders(str(folder), ("outside.txt",), label="(.)").files("train")


def test_what_cannot_be_read_or_is_too_short_is_counted(folder):
    source = AudioFolders(str(folder), ("*",), label="(.)")
    skipped: Counter[str] = Counter()
    table = encode_table(
        readable(source.examples("train"), {"audio": "audio"}, skipped, "a test"),
        lambda examples: {"audio": decodable(lambda one: encode_audio(one["audio"], 16_000)[0], examples)},
        {"audio": Column("int16", (160,))},
        max_length=100,
        path=folder / "cache.arrow",
        skipped=skipped,
    )
    assert table.skipped == {"undecodable": len(DAMAGED), "empty": 1}
    assert set(table.lengths[:, 0].tolist()) <= {50, 51} and len(table) == len(FORMS)


def test_a_table_names_files_and_a_missing_one_is_counted(tmp_path):
    (tmp_path / "a.wav").write_bytes(FORMS["16 bits"])
    (tmp_path / "train.tsv").write_text("a.wav\thello\nmissing.wav\tnothing\n")
    source = AudioTable(str(tmp_path), ("train.tsv",))
    examples = list(source.examples("train"))
    assert [example["text"] for example in examples] == ["hello", "nothing"]
    assert examples[0]["audio"].read_bytes() == FORMS["16 bits"]
    found = decodable(lambda one: encode_audio(one["audio"], 8_000), examples)
    assert found[0][0].shape == (50, 80)
    assert found[1] == Unreadable("missing", str(tmp_path / "missing.wav"))
    before = source.fingerprint("train")
    (tmp_path / "a.wav").write_bytes(FORMS["Ogg"])
    assert source.fingerprint("train") != before
