import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from transformer_jax.analysis.attention_maps import draw_attention
from transformer_jax.tasks.predictor import AttentionMap


def some_maps(source: list[str], target: list[str], layers: int = 2, heads: int = 3) -> list[AttentionMap]:
    def weights(rows: int, columns: int) -> np.ndarray:
        values = np.random.default_rng(0).random((layers, heads, rows, columns)) ** 4
        return (values / values.sum(-1, keepdims=True)).astype(np.float32)

    n, m = len(source), len(target)
    return [
        AttentionMap("Encoder self-attention", weights(n, n), source, source),
        AttentionMap("Decoder self-attention", weights(m, m), target, target),
        AttentionMap("Cross-attention", weights(m, n), target, source),
    ]


def drawn(maps: list[AttentionMap], directory) -> tuple[np.ndarray, str, list[dict]]:
    """The picture, the page, and the data in it."""
    draw_attention(maps, directory / "attention.png", directory / "attention.html")
    page = (directory / "attention.html").read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    return imread(directory / "attention.png"), page, json.loads(data[1])


def test_the_page_holds_all_weights_to_three_digits(tmp_path):
    maps = some_maps(["▁ein", "▁Satz", "</s>"], ["<s>", "▁a", "▁sentence", "."])
    _, _, kinds = drawn(maps, tmp_path)
    for kind, drawn_map in zip(kinds, maps, strict=True):
        held = np.array(kind["thousandths"]) / 1000
        np.testing.assert_allclose(held, drawn_map.weights, atol=5.1e-4)
        np.testing.assert_allclose(held.sum(-1), 1, atol=2.5e-3)
        assert (kind["title"], kind["rows"], kind["columns"]) == (drawn_map.title, drawn_map.queries, drawn_map.keys)


def test_a_token_cannot_act_on_the_page(tmp_path):
    evil = ["</script><script>alert(1)</script>", "<!--", "<img src=x onerror=f()>", '"]', "&lt;", "ATTENTION_DATA"]
    _, page, (encoder, _, _) = drawn(some_maps(evil, ["<s>"]), tmp_path)
    _, harmless, _ = drawn(some_maps(["a"], ["b"]), tmp_path)
    assert encoder["rows"] == [label.replace(" ", "␣") for label in evil]
    for mark in ("<script", "</script", "<!--", "<img"):
        assert page.count(mark) == harmless.count(mark)


def test_spaces_and_control_characters_are_shown(tmp_path):
    _, _, (encoder, _, _) = drawn(some_maps([" ", "\n", "\u202eevil", "\ud800", "▁"], ["<s>"]), tmp_path)
    assert encoder["rows"] == ["␣", "\\n", "\\u202eevil", "\\ud800", "▁"]


def test_the_page_needs_nothing_from_outside(tmp_path):
    _, page, _ = drawn(some_maps(["a"], ["b"]), tmp_path)
    assert not re.search(r"https?:|\bsrc=|\bhref=|@import|url\(", page)
    assert "default-src 'none'" in page


def test_letters_that_no_font_has_give_no_warning(tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        picture, _, _ = drawn(some_maps(["你好", "हिन्दी", "שלום", "$\\frac$", "\U000e0041"], ["<s>", "日本"]), tmp_path)
    assert picture.std() > 0.05
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("layers", "heads", "length"), [(1, 1, 1), (2, 4, 10), (3, 8, 150)])
def test_the_picture_has_a_bounded_size(tmp_path, layers, heads, length):
    tokens = [f"▁token{i}" for i in range(length)]
    picture, _, _ = drawn(some_maps(tokens, tokens, layers, heads), tmp_path)
    height, width = picture.shape[:2]
    assert height * width < 26e6
    assert width > 800


def test_weights_that_do_not_fit_the_tokens_are_refused():
    with pytest.raises(ValueError, match=r"Encoder self-attention has shape .* must be \[layers, heads, 1, 2\]"):
        replace(some_maps(["a", "b"], ["c"])[0], queries=["a"])
