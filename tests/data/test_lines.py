import errno
import os
from pathlib import Path

import pytest

from transformer_jax.data.lines import write_whole


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
