import pytest

from transformer_jax.data.text import Text


def test_files_are_documents_or_their_parts(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\nlines\n\nthree", encoding="utf-8")
    fields = {"directory": str(tmp_path), "train": ("a.txt",)}
    assert list(Text(**fields).examples("train")) == [{"text": "one\n\ntwo\nlines\n\nthree"}]
    parts = Text(**fields, separator="\n\n")
    assert [example["text"] for example in parts.examples("train")] == ["one", "two\nlines", "three"]
    assert parts.fingerprint("train") != Text(**fields).fingerprint("train")


def test_the_end_of_a_file_is_held_out(tmp_path):
    (tmp_path / "a.txt").write_text("0123456789", encoding="utf-8")
    source = Text(directory=str(tmp_path), train=("a.txt",), holdout=0.2)
    assert source.splits == ("train", "validation")
    assert [list(source.examples(split)) for split in source.splits] == [[{"text": "01234567"}], [{"text": "89"}]]
    with pytest.raises(ValueError, match="there are no test examples, only train, validation"):
        list(source.examples("test"))
    with pytest.raises(FileNotFoundError, match="did you mean a.txt"):
        list(Text(directory=str(tmp_path), train=("b.txt",)).examples("train"))
    with pytest.raises(FileNotFoundError, match="set data.source.directory"):
        list(Text(directory="absent", train=("a.txt",)).examples("train"))


def test_documents_are_held_out_whole_and_found_wherever_lines_are_cut(tmp_path, monkeypatch):
    documents = [f"document {i}\nof lines {i}\n" for i in range(200)]
    (tmp_path / "a.txt").write_text("<|end|>".join(documents), encoding="utf-8")
    fields = {"directory": str(tmp_path), "train": ("a.txt",), "separator": "<|end|>", "holdout": 0.2}
    train, held = ([example["text"] for example in Text(**fields).examples(split)] for split in ("train", "validation"))
    assert sorted([*train, *held]) == sorted([*documents[:-1], documents[-1].removesuffix("\n")])
    assert 20 < len(held) < 60 and not set(train) & set(held)
    monkeypatch.setattr("transformer_jax.data.text.LINES", 1)
    assert [example["text"] for example in Text(**fields).examples("train")] == train
