import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from transformer_jax.analysis.curves import draw_curves

TRAIN = {"loss": 3.0, "learning_rate": 1e-3, "gradient_norm": 0.5, "tokens": 4096, "tokens_per_second": 2e4}


def write_rows(directory: Path, **more: float | None) -> None:
    rows = [{"step": step, **TRAIN, **(more if step % 200 == 0 else {})} for step in range(100, 1_001, 100)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    figures, save = [], Figure.savefig

    def savefig(figure: Figure, *arguments, **named):
        figures.append(figure)
        save(figure, *arguments, **named)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def panels(figure: Figure) -> list[str]:
    """The first words of what is written in each panel."""
    return [" and ".join(text.get_text().rpartition("  ")[0] for text in axes.texts) for axes in figure.axes]


def test_the_picture_shows_losses_scores_learning_rate_and_gradient_norm(tmp_path, drawn):
    write_rows(tmp_path, validation_loss=2.5, validation_bleu=30.0, validation_chrf=50.0)
    assert draw_curves(tmp_path) == tmp_path / "curves.png"
    assert imread(tmp_path / "curves.png").shape[1] == 1500
    assert panels(drawn[0]) == [
        "loss and validation loss",
        "validation bleu",
        "validation chrf",
        "learning rate",
        "gradient norm",
    ]
    loss, validation = drawn[0].axes[0].lines
    assert list(loss.get_xdata()) == list(range(100, 1_001, 100))
    assert list(validation.get_xdata()) == list(range(200, 1_001, 200))
    assert drawn[0].get_suptitle() == tmp_path.name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]


def test_the_picture_has_no_empty_panel_when_nothing_was_evaluated(tmp_path, drawn):
    write_rows(tmp_path)
    draw_curves(tmp_path)
    assert panels(drawn[0]) == ["loss", "learning rate", "gradient norm"]


def test_values_that_were_not_finite_are_left_out(tmp_path, drawn):
    write_rows(tmp_path, validation_loss=None, gradient_norm=None)
    draw_curves(tmp_path)
    assert panels(drawn[0]) == ["loss", "learning rate", "gradient norm"]
    assert list(drawn[0].axes[-1].lines[0].get_xdata()) == [100, 300, 500, 700, 900]


def test_a_run_without_rows_gets_no_picture(tmp_path):
    assert draw_curves(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
