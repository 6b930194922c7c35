import gzip
import itertools
import json
import lzma
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from transformer_jax.data.sources import Example, Files, Tfds, split_of

PAIRS = [("a house", "ein Haus"), ("two cats", "zwei Katzen"), ("tea", "Tee")]
EXAMPLES = [{"source": source, "target": target} for source, target in PAIRS]


def write(path: Path, text: str | bytes) -> str:
    """A file, packed as its name says; returns the name."""
    raw = text if isinstance(text, bytes) else text.encode()
    path.write_bytes({".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)(raw))
    return path.name


def read(directory: Path, *names: str, split: str = "train", **fields) -> list[Example]:
    return list(Files(directory=str(directory), train=names, **fields).examples(split))


def lines(column: int) -> str:
    return "".join(pair[column] + "\n" for pair in PAIRS)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_line_aligned_files_give_one_example_a_line(tmp_path, suffix):
    names = [write(tmp_path / f"train.{language}{suffix}", lines(i)) for i, language in enumerate(("en", "de"))]
    assert read(tmp_path, *names) == EXAMPLES


def test_csv_tables_have_a_header_and_texts_with_line_breaks_and_quotes(tmp_path):
    text = 'label,text,more\r\na,"two\nlines, a ""quote""",1\r\nb,plain,2\r\n'
    write(tmp_path / "table.csv", "\ufeff" + text)
    fields: dict[str, Any] = {"features": ("text", "label")}
    expected = [{"text": 'two\nlines, a "quote"', "label": "a"}, {"text": "plain", "label": "b"}]
    assert read(tmp_path, "table.csv", **fields) == expected
    assert read(tmp_path, "table.csv", **fields, columns=("more", "label"))[1] == {"text": "2", "label": "b"}
    with pytest.raises(ValueError, match="has no column 'source', only label, text, more; set data.source.columns"):
        read(tmp_path, "table.csv")
    write(tmp_path / "bad.csv", text + "c,few\n")
    with pytest.raises(ValueError, match="bad.csv line 5 has 2 columns, not 3"):
        read(tmp_path, "bad.csv", **fields)
    write(tmp_path / "open.csv", text + 'c,d,"e\n' + "more\n" * 3)
    with pytest.raises(ValueError, match="open.csv line 5 opens a quotation mark that nothing closes"):
        read(tmp_path, "open.csv", **fields)


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_cell_of_a_csv_table_is_as_long_as_it_is(tmp_path, quote):
    text = "long " * 60_000
    write(tmp_path / "t.csv", f"source,target\n{quote}{text}{quote},b\nc,d\n")
    assert read(tmp_path, "t.csv") == [{"source": text, "target": "b"}, {"source": "c", "target": "d"}]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-32-be"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_byte_order_mark_says_how_a_file_is_decoded(tmp_path, encoding, suffix):
    # Byte 10 is a part of other characters too, such as U+010A.
    rows = [("Čekajte \u010a\u0a0a", "жди"), ("", "二\u2028"), ("\U0001f466", "c\rd")]
    mark = "" if encoding in ("utf-8-sig", "utf-16", "utf-32") else "\ufeff"
    table = write(tmp_path / f"t.tsv{suffix}", (mark + "".join(f"{a}\t{b}\r\n" for a, b in rows)).encode(encoding))
    names = [
        write(tmp_path / f"a.{i}{suffix}", (mark + "\n".join(row[i] for row in rows)).encode(encoding)) for i in (0, 1)
    ]
    expected = [{"source": source, "target": target} for source, target in rows]
    assert read(tmp_path, *names) == read(tmp_path, table) == expected


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["two cats\n" * 3, "две кошки\nи собака\n"])
def test_utf_16_and_32_without_a_mark_are_refused_and_not_read_as_nuls(tmp_path, encoding, text):
    name = write(tmp_path / "a.en", text.encode(encoding))
    named = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    with pytest.raises(ValueError, match=f"a.en is {named} without a byte order mark"):
        read(tmp_path, name, features=("text",))
    write(tmp_path / name, "UTF-8 with a NUL \0 and another \0 in it\n")
    assert len(read(tmp_path, name, features=("text",))) == 1


def test_a_link_is_followed_and_what_is_no_file_is_refused_by_its_kind(tmp_path):
    write(tmp_path / "a.en", "a\n")
    (tmp_path / "link").symlink_to("a.en")
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert read(tmp_path, "link", features=("text",)) == [{"text": "a"}]
    for name, message in (
        ("broken", "broken, data.source.train, is a link to nowhere, where no file is$"),
        (".", "data.source.train, is a directory, not a file$"),
        ("pipe", "pipe, data.source.train, is read more than once: give a file, no pipe or device$"),
    ):
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            read(tmp_path, name, features=("text",))


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_tsv_and_jsonl_tables_hold_all_features(tmp_path, suffix):
    tsv = write(tmp_path / f"t.tsv{suffix}", "".join(f"1\t{target}\t{source}\n" for source, target in PAIRS))
    assert read(tmp_path, tsv, columns=("2", "1")) == EXAMPLES
    jsonl = write(tmp_path / f"t.jsonl{suffix}", "".join(json.dumps(example) + "\n" for example in EXAMPLES))
    assert read(tmp_path, jsonl) == EXAMPLES
    nested = [{"translation": {"en": source, "de": target}} for source, target in PAIRS]
    jsonl = write(tmp_path / f"n.jsonl{suffix}", "".join(json.dumps(row) + "\n" for row in nested))
    assert read(tmp_path, jsonl, columns=("translation.en", "translation.de")) == EXAMPLES


def test_parquet_columns_are_read_by_name_nested_or_not(tmp_path):
    rows = [{"en": s, "de": t, "both": {"en": s, "de": t}, "number": i} for i, (s, t) in enumerate(PAIRS)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=2)
    assert read(tmp_path, "t.parquet", columns=("en", "de")) == EXAMPLES
    assert read(tmp_path, "t.parquet", columns=("both.en", "both.de")) == EXAMPLES


def test_lines_end_at_newlines_only(tmp_path):
    text = "one\u2028still one\x0b\x0c\x1c\x85\nt\rwo\r\n\nfour".encode()
    names = [write(tmp_path / "a.en", b"\xef\xbb\xbf" + text), write(tmp_path / "a.de", text)]
    rows = read(tmp_path, *names)
    assert [row["source"] for row in rows] == ["one\u2028still one\x0b\x0c\x1c\x85", "t\rwo", "", "four"]
    assert all(row["source"] == row["target"] for row in rows)


def test_undecodable_bytes_become_lone_surrogates_and_the_rest_is_kept(tmp_path):
    names = [write(tmp_path / "a.en", b"caf\xe9 au lait\nfine\n"), write(tmp_path / "a.de", "Kaffee\ngut\n")]
    assert [row["source"] for row in read(tmp_path, *names)] == ["caf\udce9 au lait", "fine"]
    table = write(tmp_path / "t.jsonl", '{"source": "half \\ud800", "target": ""}\n' * 2)
    splits = Files(directory=str(tmp_path), train=(table,), validation=(table,), test=(table,), holdout=0.1)
    assert [row["source"] for row in splits.examples("train")] == ["half \ud800"] * 2


def test_blank_lines_and_nulls_of_tables_are_empty_examples(tmp_path):
    blank, null = {"source": "", "target": ""}, {"source": None, "target": None}
    tsv = write(tmp_path / "t.tsv", "\na\tb\tmore\n\n")
    jsonl = write(tmp_path / "t.jsonl", '{"source": null, "target": null}\n{"source": "a", "target": "b"}\n\n')
    for name, first in ((tsv, blank), (jsonl, null)):
        assert read(tmp_path, name) == [first, {"source": "a", "target": "b"}, blank]


def held_out(directory: Path, **fields) -> dict[str, list[Example]]:
    source = Files(directory=str(directory), train=("t.tsv",), holdout=0.2, **fields)
    return {split: list(source.examples(split)) for split in source.splits}


def test_holdout_splits_by_text_and_is_stable(tmp_path):
    write(tmp_path / "t.tsv", "".join(f"source {i // 3}\ttarget {i}\n" for i in range(900)))
    splits = held_out(tmp_path)
    assert sum(map(len, splits.values())) == 900
    texts = {split: {row["source"] for row in rows} for split, rows in splits.items()}
    assert not any(one & other for one, other in itertools.combinations(texts.values(), 2))
    assert 40 < len(texts["validation"]) < 80 and 40 < len(texts["test"]) < 80
    # The hash is part of every result: it must be the same on any machine, in any version.
    assert [row["source"] for row in splits["validation"][:9:3]] == ["source 1", "source 5", "source 6"]
    by_target = held_out(tmp_path, holdout_by="target")
    assert {row["source"] for row in by_target["train"]} & {row["source"] for row in by_target["validation"]}


def test_the_split_of_a_text_is_always_the_same():
    splits = [split_of(f"text {i}", 0.2) for i in range(11)]
    assert [splits.index("validation"), splits.index("test"), splits.count("train")] == [2, 10, 7]
    assert {split_of(f"text {i}", 0.2, ("validation",)) for i in (2, 3, 6)} == {"validation"}
    assert split_of("text 10", 0.2, ("validation",)) == "train"


def test_a_split_with_files_takes_nothing_from_the_training_examples(tmp_path):
    write(tmp_path / "t.tsv", "".join(f"source {i}\ttarget {i}\n" for i in range(300)))
    write(tmp_path / "v.tsv", "a\tb\n")
    both, one = held_out(tmp_path), held_out(tmp_path, validation=("v.tsv",))
    assert one["validation"] == [{"source": "a", "target": "b"}]
    assert one["test"] == both["test"]
    assert len(one["train"]) == len(both["train"]) + len(both["validation"])


def test_a_holdout_that_leaves_a_split_empty_is_an_error(tmp_path):
    write(tmp_path / "t.tsv", "a\tb\n")
    with pytest.raises(ValueError, match="no example falls in the .* split; data.source.holdout 0.2 is too small"):
        held_out(tmp_path)


BAD_TABLES = {
    "three.tsv": ("a\tb\nc\td\te\n", "three.tsv line 2 has 3 columns, not 2"),
    "one.tsv": ("a\tb\nc\n", "one.tsv line 2 has 1 columns, not 2"),
    "narrow.tsv": ("a\nb\n", "narrow.tsv line 1 has 1 columns, not 2"),
    "missing.jsonl": ('{"source": "a", "target": "b"}\n{"source": "a"}\n', "missing.jsonl line 2 has no 'target'"),
    "nested.jsonl": (
        '{"source": "a", "target": [["b"]]}\n',
        "'target' of .*nested.jsonl line 1 is list, neither text, texts nor a number",
    ),
    "list.jsonl": ('["a", "b"]\n', "list.jsonl line 1 has no 'source'"),
    "broken.jsonl": ('{"source": "a", \n', "broken.jsonl line 1 is not JSON"),
    "digits.jsonl": (f'{{"source": "a", "target": {"9" * 5000}}}\n', "digits.jsonl line 1 is not JSON"),
    "text.parquet": ("not a table\n", "text.parquet is not a parquet file"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_row_of_a_table_is_named(tmp_path, name):
    text, message = BAD_TABLES[name]
    write(tmp_path / name, text)
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_tables_may_hold_lists_of_texts_and_an_item_is_named_by_its_number(tmp_path, suffix):
    rows = [{"a": "x", "b": ["one", "other"]}, {"a": "y", "b": []}]
    if suffix == "jsonl":
        write(tmp_path / "rows.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    features, columns = ("source", "target", "references"), ("a", "b.0", "b")
    assert read(tmp_path, f"rows.{suffix}", features=features, columns=columns) == [
        {"source": "x", "target": "one", "references": ["one", "other"]},
        {"source": "y", "target": "", "references": []},
    ]


def test_tables_may_hold_numbers_nulls_and_bytes(tmp_path):
    rows = [{"source": "a", "target": 1}, {"source": "b", "target": None}, {"source": "c", "target": 4.75}]
    jsonl = write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert read(tmp_path, jsonl) == rows
    table = {"source": [b"caf\xe9", b"b"], "target": [1, None]}
    parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
    assert read(tmp_path, "t.parquet") == [{"source": b"caf\xe9", "target": 1}, {"source": b"b", "target": None}]
    with pytest.raises(ValueError, match="t.parquet row 1 has no 'de'"):
        read(tmp_path, "t.parquet", columns=("source", "de"))


def test_misaligned_files_are_named_with_their_line_counts(tmp_path):
    names = [write(tmp_path / "a.en", "1\n2\n3\n"), write(tmp_path / "a.de.gz", "1\n2")]
    with pytest.raises(ValueError, match=r"a.en has 3, .*a.de.gz has 2"):
        read(tmp_path, *names)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_a_packed_file_that_ends_early_or_is_damaged_is_an_error(tmp_path, suffix):
    name = write(tmp_path / f"a.txt{suffix}", "".join(f"line {i * i}\n" for i in range(5_000)))
    whole = (tmp_path / name).read_bytes()
    flipped = [whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :] for place in (10, 1_000)]
    for damaged in (whole[:-20], whole[:1_000], *flipped):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=f"a.txt{suffix} ends early or is damaged"):
            read(tmp_path, name, features=("source",))


def test_a_missing_file_is_named_with_its_field_and_near_names(tmp_path):
    write(tmp_path / "train.en.gz", "a\n")
    with pytest.raises(FileNotFoundError, match=r"no file /.*/train.en, data.source.train.* mean train.en.gz\?"):
        read(tmp_path, "train.en", "train.de")
    with pytest.raises(FileNotFoundError, match="no directory .*nowhere; set data.source.directory"):
        read(tmp_path / "nowhere", "train.en", "train.de")


@pytest.mark.parametrize(
    ("fields", "split", "message"),
    [
        ({}, "validation", "there are no validation examples, only train; set data.source.validation"),
        ({}, "dev", "splits are train, validation, test, not 'dev'"),
        ({"train": ()}, "train", "set data.source.train"),
        ({"train": (), "holdout": 0.1}, "validation", "set data.source.validation"),
        ({"train": ("a.en",)}, "train", "data.source.train names a.en; give one text file for each of source, target"),
        ({"train": ("a.en", "a.tsv")}, "train", "or a single .csv, .tsv, .jsonl, .parquet file"),
        ({"columns": ("0",)}, "train", "data.source.columns .* are not one for each of"),
        ({"train": ("a.tsv",), "columns": ("en", "de")}, "train", "are numbers from 0, not en, de"),
        ({"holdout": 0.5}, "train", "data.source.holdout is a share below 0.5"),
        ({"holdout": 0.1, "holdout_by": "en"}, "train", "data.source.holdout_by is one of source, target, not 'en'"),
    ],
)
def test_fields_that_cannot_work_are_refused(tmp_path, fields, split, message):
    for name in ("a.en", "a.de", "a.tsv"):
        write(tmp_path / name, "a\tb\n")
    source = Files(**{"directory": str(tmp_path), "train": ("a.en", "a.de"), **fields})
    with pytest.raises(ValueError, match=message):
        list(source.examples(split))


def test_the_fingerprint_follows_content_and_fields_but_not_the_directory(tmp_path):
    def fingerprint(directory: str, text: str, split: str = "train", **fields) -> str:
        (tmp_path / directory).mkdir(exist_ok=True)
        write(tmp_path / directory / "t.tsv", text)
        return Files(directory=str(tmp_path / directory), train=("t.tsv",), **fields).fingerprint(split)

    first = fingerprint("a", "a\tb\n")
    assert fingerprint("b", "a\tb\n") == first
    others = [
        fingerprint("a", "a\tc\n"),
        fingerprint("a", "a\tb\n", columns=("1", "0")),
        fingerprint("a", "a\tb\n", holdout=0.1),
        fingerprint("a", "a\tb\n", holdout=0.1, split="validation"),
        fingerprint("a", "a\tb\n", holdout=0.1, test=("t.tsv",)),
    ]
    assert len({first, *others}) == 6


PREPARE = """
import sys
import tensorflow_datasets as tfds

class TinyTranslate(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version(sys.argv[2])
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="de-en", version=VERSION)]

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.Translation(languages=("de", "en")))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(20), "validation": self._generate_examples(3)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"de": f"Straße {i}", "en": f"street {i}, {sys.argv[2]}"}

TinyTranslate(data_dir=sys.argv[1], config="de-en", file_format="array_record").download_and_prepare()
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> str:
    """A TFDS directory with two versions of a data set, whose class is not known to this process."""
    directory = str(tmp_path_factory.mktemp("tfds"))
    for version in ("1.9.0", "1.10.0"):
        subprocess.run([sys.executable, "-c", PREPARE, directory, version], check=True, capture_output=True)
    return directory


def test_tfds_reads_the_newest_prepared_version(prepared):
    source = Tfds("tiny_translate/de-en", data_dir=prepared, columns=("en", "de"))
    rows = sorted(source.examples("validation"), key=str)
    assert rows == [{"source": f"street {i}, 1.10.0", "target": f"Straße {i}"} for i in range(3)]
    older = Tfds("tiny_translate/de-en:1.9.0", data_dir=prepared, columns=("en", "de"))
    assert all(row["source"].endswith("1.9.0") for row in older.examples("validation"))


def test_tfds_splits_may_be_slices(prepared):
    columns = ("de", "en")
    whole = Tfds("tiny_translate/de-en", columns, data_dir=prepared)
    quarter = Tfds(
        "tiny_translate/de-en", columns, data_dir=prepared, train="train[:25%]", validation="train[25%:]", test=""
    )
    rows = list(whole.examples("train"))
    assert len(rows) == 20
    assert list(quarter.examples("train")) == rows[:5] and list(quarter.examples("validation")) == rows[5:]
    assert quarter.splits == ("train", "validation")
    assert len({source.fingerprint(s) for source in (whole, quarter) for s in ("train", "validation")}) == 4
    assert quarter.fingerprint("train") == quarter.fingerprint("train")


def test_tfds_needs_no_tensorflow_and_says_nothing(prepared):
    code = (
        "import sys; from transformer_jax.data.sources import Tfds\n"
        f"source = Tfds('tiny_translate/de-en', columns=('de', 'en'), data_dir={prepared!r})\n"
        "print(len(list(source.examples('train'))), bool(source.fingerprint('train')), 'tensorflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (result.returncode, result.stdout, result.stderr) == (0, "20 True False\n", "")


def test_tfds_default_directory_is_that_of_tfds(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", prepared)
    assert len(list(Tfds("tiny_translate/de-en", columns=("de", "en")).examples("train"))) == 20
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", prepared)
    with pytest.raises(FileNotFoundError, match=re.escape(f"not prepared in {prepared}/tensorflow_datasets;")):
        Tfds("tiny_translate/de-en", columns=("de", "en")).examples("train")


def test_tfds_says_which_command_prepares_a_missing_set(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        Tfds("wmt14_translate/de-en", data_dir=str(tmp_path)).examples("train")
    assert str(error.value).endswith(
        "python -c \"import tensorflow_datasets as tfds; tfds.builder('wmt14_translate/de-en', "
        f"data_dir='{tmp_path}', file_format='array_record').download_and_prepare()\""
    )
    assert "\n" not in str(error.value)


def test_tfds_says_how_to_prepare_anew_a_set_that_needs_tensorflow(prepared, tmp_path):
    version = tmp_path / "tiny_translate/de-en/1.10.0"
    version.mkdir(parents=True)
    for file in Path(prepared, "tiny_translate/de-en/1.10.0").glob("*.json"):
        (version / file.name).write_text(file.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=f"{version} needs TensorFlow .* data_dir='ANOTHER_DIR"):
        Tfds("tiny_translate/de-en", data_dir=str(tmp_path)).examples("train")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": "trian"}, "tiny_translate/de-en has train, validation, not 'trian' (data.source.train)"),
        ({"train": "train[:x]"}, "tiny_translate/de-en has train, validation, not 'train[:x]'"),
        ({"name": "wmt 14"}, "wmt 14 cannot be read from"),
        ({"columns": ("de", "fr")}, "tiny_translate/de-en has no 'fr'; set data.source.columns"),
        ({"columns": ("de",)}, "are not one for each of"),
        ({"train": ""}, "set data.source.train"),
    ],
)
def test_tfds_fields_that_cannot_work_are_refused(prepared, fields, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        list(Tfds(**{"name": "tiny_translate/de-en", "data_dir": prepared, **fields}).examples("train"))
    assert "\n" not in str(error.value)
