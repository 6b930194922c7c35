"""Files of published tokenizers that would do harm, or give other ids at every call."""

import json
import subprocess

import pytest

from transformer_jax.data.subwords import ByteBPE
from transformer_jax.data.tokenizer_json import TokenizerJson

TEXTS = ["the quick brown fox jumps over lazy dogs"] * 3
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
PLACE = {"SpecialToken": {"id": "x", "type_id": 0}}
SIDES = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]


@pytest.fixture
def file(tmp_path):
    """Writes a tokenizer.json with some of its parts changed; the tokenizer that is read from it."""

    def written(**changes):
        content = json.loads(ByteBPE(vocab_size=280).train(TEXTS).content)
        content["model"] |= changes.pop("model", {})
        (tmp_path / "tokenizer.json").write_text(json.dumps(content | changes))
        return TokenizerJson(path=str(tmp_path)).train([])

    return written


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "ByteLevel"}] * 40}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES] * 40}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [PLACE] * 20_000,
                "pair": SIDES,
                "special_tokens": {"x": {"id": "x", "ids": [0] * 20_000, "tokens": ["x"] * 20_000}},
            }
        },
    ],
    ids=["normalizer", "pre_tokenizer", "charsmap", "template"],
)
def test_a_file_at_which_the_library_ends_its_process_is_refused(part, file):
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be used"):
        file(**part)


def test_a_text_has_the_same_ids_whatever_dropout_a_file_states(file):
    assert file(model={"dropout": 0.9}).encode("the quick") == file().encode("the quick")


def test_a_runs_own_file_is_not_tried_again(file, monkeypatch):
    tokenizer = file()
    monkeypatch.setattr(subprocess, "Popen", None)
    assert type(tokenizer)(tokenizer.content).encode("the fox") == tokenizer.encode("the fox")


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json", "tokenizer.model", "vocab.txt"])
def test_a_link_carries_no_file_of_elsewhere_into_a_tokenizer(name, tmp_path):
    directory = tmp_path / "published"
    directory.mkdir()
    (tmp_path / "secret").write_text("{}")
    (directory / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="out of its directory"):
        TokenizerJson(path=str(directory)).train([])
