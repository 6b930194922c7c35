"""The files of WMT 2014 are made of the published archives alone, line by line."""

import gzip
import hashlib
import io
import runpy
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "wmt14.py"
SGML = '<refset>\n<doc docid="a">\n<p>\n<seg id="1">{first}</seg>\n<seg id="2"> {second} </seg>\n</p>\n</doc>'


@pytest.fixture
def script():
    return runpy.run_path(str(SCRIPT))


def archive(path, files):
    """Writes an archive; returns its SHA-256."""
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"training/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def corpora(script, directory, of):
    """Small archives in place of all that the language needs; the script then takes them for the published ones."""
    known = {}
    for number, (one, name) in enumerate(script["TRAINING"][of].items()):
        files = {}
        for side in ("en", of):
            # The last line has no end; a line separator of Unicode is none of the file's.
            text = f"{side} {number} a\n{side} {number} b\u2028c".encode()
            files[name.format(of=of, side=side)] = gzip.compress(text) if name.endswith(".gz") else text
        known[replace(one, sha256=archive(directory / one.name, {"other.txt": b"x", **files}))] = name
    held_out = {f"newstest2013.{side}": f"{side} x\n{side} y\n".encode() for side in ("en", of)}
    for side, kind in (("en", "ref"), (of, "src")):
        held_out[f"newstest2014-{of}en-{kind}.{side}.sgm"] = SGML.format(first=f"{side} &amp; 1", second="2").encode()
    development = script["DEVELOPMENT"]
    script["TRAINING"][of] = known
    names = script["make"].__globals__
    names["DEVELOPMENT"] = replace(development, sha256=archive(directory / development.name, held_out))
    names["TRAINING"] = script["TRAINING"] | {of: known}


@pytest.mark.parametrize("of", ["de", "fr"])
def test_corpora_follow_one_another_and_stay_aligned(script, tmp_path, capsys, of):
    corpora(script, tmp_path, of)
    script["make"](tmp_path, of)
    count = len(script["TRAINING"][of])
    for side in ("en", of):
        expected = [f"{side} {number} {end}" for number in range(count) for end in ("a", "b\u2028c")]
        assert (tmp_path / f"train.{side}").read_text().split("\n") == [*expected, ""]
        assert (tmp_path / f"newstest2013.{side}").read_text() == f"{side} x\n{side} y\n"
        assert (tmp_path / f"newstest2014.{side}").read_text() == f"{side} & 1\n2\n"
    assert f"train.en and .{of}: {2 * count:,} lines" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.partial"))


def test_an_archive_that_is_not_the_published_one_is_refused(script, tmp_path):
    corpora(script, tmp_path, "de")
    (tmp_path / "training-parallel-nc-v9.tgz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"nc-v9.tgz has the SHA-256 .*remove it to download it again"):
        script["make"](tmp_path, "de")
    assert not (tmp_path / "train.en").exists()


def test_files_of_different_length_are_refused(script, tmp_path):
    names = {"a": b"1\n2\n", "b": b"1\n"}
    archive(tmp_path / "some.tgz", names)
    with pytest.raises(ValueError, match="same number of lines in a and b"):
        script["extract"](tmp_path / "some.tgz", ["a", "b"], [io.BytesIO(), io.BytesIO()])
    with pytest.raises(ValueError, match="same number of lines in a and c"):
        script["extract"](tmp_path / "some.tgz", ["a", "c"], [io.BytesIO(), io.BytesIO()])
