"""Pictures of every form are decoded right; what is damaged or too large is counted and skipped."""

import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from transformer_jax.data.augmentation import Augmentation
from transformer_jax.data.labels import Labels
from transformer_jax.data.pictures import Digits, Npz, PictureFolders, PictureTable, decode_picture, encode_picture
from transformer_jax.data.pipeline import batches
from transformer_jax.data.plan import BatchPlan
from transformer_jax.data.sources import Files, Tfds
from transformer_jax.data.table import encode_table
from transformer_jax.tasks.image_classification import ImageClassification

SIDE = 16
COLOURS = np.zeros((SIDE, SIDE, 3), np.uint8)
"""Grey on the left, red above blue on the right."""
COLOURS[:8, 8:, 0], COLOURS[8:, 8:, 2], COLOURS[:, :8] = 150, 150, 90


def file_of(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data, size=SIDE, channels=3):
    return decode_picture(data, size=size, channels=channels).astype(int)


def tilted():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: to be turned clockwise by 90 degrees
    return file_of(Image.fromarray(np.rot90(COLOURS)), "JPEG", quality=100, subsampling=0, exif=exif)


IMAGE = Image.fromarray(COLOURS)
SEE_THROUGH = np.dstack([COLOURS, np.full((SIDE, SIDE), 7, np.uint8)])
ANIMATION = {"save_all": True, "append_images": [Image.fromarray(255 - COLOURS)]}
FORMS = {
    "array": encode_picture(COLOURS),
    "PNG": file_of(IMAGE, "PNG"),
    "JPEG": file_of(IMAGE, "JPEG", quality=100, subsampling=0),
    "CMYK": file_of(IMAGE.convert("CMYK"), "JPEG", quality=100, subsampling=0),
    "palette": file_of(IMAGE.quantize(16), "PNG"),
    "transparent": file_of(Image.fromarray(SEE_THROUGH), "PNG"),
    "transparent palette": file_of(IMAGE.quantize(16), "PNG", transparency=0),
    "animated": file_of(IMAGE, "GIF", **ANIMATION),
    "tilted": tilted(),
    "TIFF": file_of(IMAGE, "TIFF"),
    "WebP": file_of(IMAGE, "WEBP", lossless=True),
}
GREY = np.asarray(IMAGE.convert("L"))
GREYS = {
    "grey": file_of(Image.fromarray(GREY), "PNG"),
    "16 bits": file_of(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"),
    "16 bits of a TIFF": file_of(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"),
    "colours": FORMS["PNG"],
    "array without channels": encode_picture(GREY),
    "array of one channel": encode_picture(GREY[..., None]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_decoded_to_its_colours(form):
    near = 12 if form in ("JPEG", "CMYK", "tilted", "palette", "transparent palette", "animated") else 0
    assert np.abs(decoded(FORMS[form]) - COLOURS).max() <= near


@pytest.mark.parametrize("form", GREYS)
def test_a_form_is_decoded_to_its_greys(form):
    assert np.abs(decoded(GREYS[form], channels=1)[..., 0] - GREY).max() <= 1
    if form != "colours":
        assert np.abs(decoded(GREYS[form]) - GREY[..., None]).max() <= 1


def test_the_middle_square_is_scaled():
    wide = np.concatenate([np.full((SIDE, 8, 3), 255, np.uint8), COLOURS, np.full((SIDE, 8, 3), 255, np.uint8)], axis=1)
    np.testing.assert_array_equal(decoded(file_of(Image.fromarray(wide), "PNG")), COLOURS)
    np.testing.assert_array_equal(decoded(encode_picture(wide)), COLOURS)
    assert decoded(FORMS["PNG"], size=4).shape == (4, 4, 3)
    np.testing.assert_allclose(decoded(FORMS["PNG"], size=4)[0, 0], COLOURS[0, 0], atol=2)


def claims(width, height):
    """The beginning of a PNG file that claims to have so many pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


DAMAGED = {
    "nothing": b"",
    "text": b"no picture at all",
    "cut off": FORMS["PNG"][: len(FORMS["PNG"]) // 2],
    "cut off JPEG": FORMS["JPEG"][: len(FORMS["JPEG"]) // 2],
    "cut off array": FORMS["array"][:-5],
    "overwritten": FORMS["PNG"][:60] + bytes(20) + FORMS["PNG"][80:],
    "large": claims(8_200, 8_200),
    "huge": claims(60_000, 60_000),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n",
    "floats": file_of(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_and_decompression_bombs_are_refused(kind):
    with pytest.raises(ValueError, match="no picture: "):
        decoded(DAMAGED[kind])


@pytest.fixture
def folder(tmp_path):
    for name, data in FORMS.items():
        place = tmp_path / "train" / ("warm" if "a" in name else "cold") / f"{name}.png"  # wrongly named, most of them
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    (tmp_path / "train" / "cold" / "notes.txt").write_text("no picture")
    for name, data in DAMAGED.items():
        (tmp_path / "train" / "warm" / f"{name}.jpg").write_bytes(data)
    return tmp_path


def table_of(source, directory, **changes):
    """The table of a source's examples to learn from, and the names of its labels."""
    form: Any = {"image_size": SIDE} | changes
    task = ImageClassification(**form)
    labels = Labels().train([example["label"] for example in task.readable(source.examples("train"))])
    form = {"max_length": 1, "path": directory / "cache.arrow", "skipped": Counter()}
    encode = partial(task.encode, {"label": labels}, max_length=1)
    return encode_table(task.readable(source.examples("train")), encode, task.columns, **form), labels.names


def test_a_folder_is_read_and_what_cannot_be_decoded_is_counted(folder):
    table, names = table_of(PictureFolders(directory=str(folder)), folder, image_size=8)
    assert names == ("cold", "warm")
    assert table.skipped == {"undecodable": len(DAMAGED)} and len(table) == len(FORMS)
    first = f"the first {folder}/train/warm/PostScript.jpg: no picture: not one of BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"
    skipped = f"skipped 10 (10 undecodable, {first})"
    assert table.report("train", 2) == f"train: {len(FORMS)} examples, 2 labels; {skipped}"
    plan = BatchPlan(table.lengths, tokens_per_batch=4, num_buckets=8, batch_multiple=2, seed=0)
    assert [shape.rows for shape in plan.shapes] == [4], "a picture is one token of a batch"
    found = list(batches(table, plan, stop=plan.batches_per_epoch))
    assert {batch["image"].shape for batch in found} == {(4, 8, 8, 3)} and found[0]["image"].dtype == np.uint8
    rows = sorted(row for batch in found for row in batch["example"].tolist() if row >= 0)
    assert rows == list(range(len(FORMS)))
    for batch in found:
        assert (batch["image"].reshape(4, -1).any(axis=1) == (batch["example"] >= 0)).all()


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_sees_the_same_changed_pictures(folder, processes):
    changes = Augmentation(crop=0.3, flip=True, operations=2)
    table, _ = table_of(PictureFolders(directory=str(folder)), folder, image_size=8, augmentation=changes)
    plan = BatchPlan(table.lengths, tokens_per_batch=8, num_buckets=1, batch_multiple=4, seed=0)
    epoch = plan.batches_per_epoch
    whole = list(batches(table, plan, stop=2 * epoch))
    parts = [batches(table, plan, stop=2 * epoch, parts=[part], num_parts=processes) for part in range(processes)]
    for batch, *shares in zip(whole, *parts, strict=True):
        for name, array in batch.items():
            np.testing.assert_array_equal(np.concatenate([share[name] for share in shares]), array, strict=True)
    seen = [
        {row: image.tobytes() for batch in part for row, image in zip(batch["example"], batch["image"], strict=True)}
        for part in (whole[:epoch], whole[epoch:])
    ]
    assert sum(seen[0][row] != seen[1][row] for row in seen[0] if row >= 0) > len(table) // 2, "changed in every epoch"


def test_a_part_of_a_folder_is_held_out(folder):
    source = PictureFolders(directory=str(folder), holdout=0.2)
    parts = [{str(path) for path in source.files(split)} for split in source.splits]
    assert source.splits == ("train", "validation", "test") and all(parts)
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(FORMS) + len(DAMAGED)
    wrong = {"elsewhere": "no CLASS/NAME.*set data.source", "train/cold": "no CLASS/NAME"}
    for name, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            PictureFolders(directory=str(folder), train=(name,)).files("train")
    with pytest.raises(ValueError, match=r"use --data.source.train \.$"):
        PictureFolders(directory=str(folder / "train")).files("train")
    with pytest.raises(FileNotFoundError, match="there is no directory .*nowhere; set data.source.directory"):
        PictureFolders(directory=str(folder / "nowhere")).files("train")


def test_a_class_without_a_file_is_refused(folder):
    source, lost = PictureFolders(directory=str(folder)), folder / "train" / "lost" / "deeper"
    count = len(source.files("train"))
    lost.mkdir(parents=True)
    (lost / "1.png").write_bytes(FORMS["PNG"])
    with pytest.raises(ValueError, match=r"the class folder .*train/lost has no file that ends .*\.jfif, .*; fill"):
        source.files("train")
    (lost / "1.png").rename(lost.parent / "1.JFIF")
    assert len(source.files("train")) == count + 1
    (folder / "train" / "validation").mkdir()
    inside = PictureFolders(directory=str(folder / "train"), train=(".",), validation=("validation",))
    assert len(inside.files("train")) == count + 1, "the folder of a split is no class"


def test_arrays_of_a_file_are_read_with_the_names_of_their_labels(tmp_path):
    images, labels = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "train.npz", images=images, labels=labels)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    source = Npz(directory=str(tmp_path), classes="classes.txt", holdout=0.3)
    parts = {split: list(source.examples(split)) for split in source.splits}
    assert parts.keys() == {"train", "validation"} and all(parts.values())
    assert {example["label"] for example in parts["train"]} == {"cat", "dog"}
    both = sorted(example["image"].tobytes() for part in parts.values() for example in part)
    assert both == sorted(image.tobytes() for image in images)
    np.savez(tmp_path / "train.npz", images=images.astype(float), labels=labels)
    with pytest.raises(ValueError, match=r"does not hold .* of as many pictures .uint8. and labels: they are float64"):
        list(source.examples("train"))


def test_a_file_of_arrays_that_is_damaged_or_has_other_labels_is_refused_in_one_line(tmp_path):
    images, file = np.zeros((3, 4, 4, 3), np.uint8), tmp_path / "train.npz"
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    np.savez_compressed(file, images=images, labels=np.arange(3) % 2)
    whole, header = file.read_bytes(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**50,)})
    with zipfile.ZipFile(file, "w") as claims:
        claims.writestr("images.npy", header.getvalue())
    damaged = [whole[:9], whole[:-30], whole[:70] + bytes(20) + whole[90:], file.read_bytes()]
    for labels in ([0, 1, 2], [0, 1, -1], [0.0, 1.0, 1.0], ["cat", "dog", "dog"]):
        np.savez(file, images=images, labels=np.array(labels))
        damaged.append(file.read_bytes())
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"train.npz does not hold images and labels"):
            list(Npz(directory=str(tmp_path), classes="classes.txt").examples("train"))


@pytest.mark.parametrize("value", ["null", "3", '["x"]'])
def test_a_table_without_the_name_of_a_file_is_refused(tmp_path, value):
    (tmp_path / "train.jsonl").write_text(f'{{"image": {value}, "label": "cat"}}\n')
    source = PictureTable(directory=str(tmp_path), train=("train.jsonl",))
    with pytest.raises(ValueError, match="column 'image' of example 1 is|is list, neither|is neither"):
        list(ImageClassification().readable(source.examples("train")))


def test_what_is_no_regular_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "endless.png")  # reading it would wait for ever
    for path in (tmp_path / "endless.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(ValueError, match="is not a regular file"):
            encode_picture(path)


def assert_read(source, directory):
    """A source's pictures are that of COLOURS, labelled cat, and its mirror image, labelled dog."""
    table, names = table_of(source, directory)
    batch = table.batch(np.arange(2), [1, 1])
    assert [names[label] for label in batch["label"]] == ["cat", "dog"]
    np.testing.assert_array_equal(batch["image"], np.stack([COLOURS, COLOURS[:, ::-1]]))
    return table


MIRRORED = file_of(Image.fromarray(COLOURS[:, ::-1]), "PNG")


def test_a_table_names_files_and_labels(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.png").write_bytes(FORMS["PNG"])
    (tmp_path / "pictures" / "other.png").write_bytes(MIRRORED)
    (tmp_path / "train.csv").write_text("label,image\ncat,pictures/one.png\ndog,pictures/other.png\ncat,nowhere.png\n")
    source = PictureTable(directory=str(tmp_path), train=("train.csv",))
    table = assert_read(source, tmp_path)
    assert table.report("train") == f"train: 2 examples; skipped 1 (1 missing, the first {tmp_path}/nowhere.png)"
    before = source.fingerprint("train")
    (tmp_path / "pictures" / "one.png").write_bytes(MIRRORED)
    assert source.fingerprint("train") != before


def test_parquet_holds_the_bytes_of_files(tmp_path):
    images = [{"bytes": data, "path": "x.png"} for data in (FORMS["PNG"], MIRRORED, b"no picture")]
    pq.write_table(pa.table({"image": images, "label": ["cat", "dog", "cat"]}), tmp_path / "train.parquet")
    features, columns = ("image", "label"), ("image.bytes", "label")
    source = Files(directory=str(tmp_path), train=("train.parquet",), features=features, columns=columns)
    assert assert_read(source, tmp_path).skipped == {"undecodable": 1}


def test_parquet_is_read_a_few_rows_at_a_time(tmp_path):
    random = np.random.default_rng(0)
    table = {"image": [random.bytes(20_000) for _ in range(2_000)], "label": ["cat"] * 2_000}
    pq.write_table(pa.table(table), tmp_path / "train.parquet", row_group_size=100)
    source = Files(directory=str(tmp_path), train=("train.parquet",), features=("image", "label"))
    before = pa.total_allocated_bytes()
    rows = source.examples("train")
    assert next(rows)["label"] == "cat"
    assert pa.total_allocated_bytes() - before < 12e6, "of 40 MB"
    assert sum(1 for _ in rows) == 1_999


PREPARE = """
import sys

import numpy as np
import tensorflow_datasets as tfds


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(shape=(16, 16, 3)), "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(2):
            yield number, {"image": f"{sys.argv[2]}/{number}.png", "label": number}


TinyPictures(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


def test_a_tfds_data_set_is_read_by_name(tmp_path):
    for number, data in enumerate((FORMS["PNG"], MIRRORED)):
        (tmp_path / f"{number}.png").write_bytes(data)
    subprocess.run([sys.executable, "-c", PREPARE, tmp_path / "tfds", tmp_path], check=True, capture_output=True)
    source = Tfds("tiny_pictures", data_dir=str(tmp_path / "tfds"), validation="", features=("image", "label"))
    found = {example["label"]: example["image"] for example in source.examples("train")}
    assert found == {0: FORMS["PNG"], 1: MIRRORED}, "files as they are, not decoded"


def test_the_digits_are_in_one_split_each():
    parts = {split: list(Digits().examples(split)) for split in ("train", "validation", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 1258, "validation": 180, "test": 359}
    assert all(len({example["label"] for example in part}) == 10 for part in parts.values())
    image = parts["train"][0]["image"]
    assert image.shape == (8, 8, 1) and image.max() == 239 and image.dtype == np.uint8
