"""Names on the hub become directories; nothing here reaches a network."""

import sys
from types import SimpleNamespace

import pytest

from transformer_jax.interop.hub import local_directory


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """What is asked of the hub."""
    asked = []

    def snapshot_download(name, *, allow_patterns):
        asked.append((name, allow_patterns))
        if name == "nobody/nothing":
            raise OSError("404 Client Error.\nMore about it.")
        return str(tmp_path / "snapshot")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    monkeypatch.chdir(tmp_path)
    return asked


def test_a_name_is_fetched_without_pickles_and_code(hub, tmp_path):
    assert local_directory("owner/a-model.v2") == tmp_path / "snapshot"
    ((name, patterns),) = hub
    assert name == "owner/a-model.v2" and not [each for each in patterns if each.endswith((".bin", ".pt", ".py"))]


@pytest.mark.parametrize(
    "place", ["runs/missing", "there", "/no/such/place", "one", "a/b/c", "runs/quickstart:12", "../a/b"]
)
def test_paths_are_no_names(place, hub, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "there").mkdir()
    assert str(local_directory(place)) == place and not hub


def test_what_cannot_be_had_is_one_line(hub, monkeypatch):
    with pytest.raises(ValueError, match=r"^nobody/nothing is no directory here, .*: 404 Client Error\.$"):
        local_directory("nobody/nothing")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="the extra huggingface"):
        local_directory("owner/model")
