import errno
import os
from pathlib import Path

import pytest

from transformer_jax.data.lines import read_json, write_whole


def test_a_file_that_cannot_be_written_whole_stays_as_it_was_and_is_named(tmp_path, monkeypatch):
    def full(path, content):
        path.open("wb").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_whole(tmp_path / "file", b"first")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as caught:
        write_whole(tmp_path / "file", b"second")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "file"))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]


def test_a_published_file_is_no_link_to_elsewhere_and_not_without_bounds(tmp_path):
    model, snapshot = tmp_path / "model", tmp_path / "hub" / "snapshots" / "revision" / "1_Pooling"
    for directory in (model, snapshot, tmp_path / "hub" / "blobs"):
        directory.mkdir(parents=True)
    for place in (tmp_path / "secret.json", tmp_path / "hub" / "blobs" / "a", model / "a.json"):
        place.write_text("{}")
    (model / "link.json").symlink_to(tmp_path / "secret.json")
    (model / "inside.json").symlink_to(model / "a.json")
    (snapshot / "config.json").symlink_to(tmp_path / "hub" / "blobs" / "a")
    assert read_json(model / "inside.json") == read_json(snapshot / "config.json") == {}
    with pytest.raises(ValueError, match="out of its directory"):
        read_json(model / "link.json")
    os.truncate(model / "a.json", 2**40)
    with pytest.raises(ValueError, match="at most"):
        read_json(model / "a.json")
