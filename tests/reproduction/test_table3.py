"""The variations of table 3, as fields and as numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from transformer_jax.analysis.tables import Measured
from transformer_jax.cli.main import main
from transformer_jax.cli.overrides import apply_overrides
from transformer_jax.nn.positions import Learned
from transformer_jax.reproduction.table3 import SCALES, VARIATIONS, VOCABULARY, chosen, row, sign, verdict, with_paper
from transformer_jax.runs.experiment_file import load_experiment_file
from transformer_jax.tasks.translation import Translation
from transformer_jax.training.experiment import Experiment

ROOT = Path(__file__).parents[2]


def experiments(name: str) -> dict[str, Experiment]:
    """The experiment of every variation at a scale."""
    scale = SCALES[name]
    file = load_experiment_file(ROOT / scale.file, scale.variant or "experiment")
    base = apply_overrides(file, scale.overrides, "test")
    return {one.name: apply_overrides(base, row(one, base).overrides, "test") for one in VARIATIONS}


def test_a_row_that_would_be_the_base_is_refused():
    base = load_experiment_file(ROOT / SCALES["dates"].file)
    flat = replace(base, model=replace(base.model, num_layers=1))
    with pytest.raises(ValueError, match="C-N4 of a base with 1 layers would have 1"):
        row(next(one for one in VARIATIONS if one.name == "C-N4"), flat)
    assert [one.name for one in chosen(" C-N2 ,big")] == ["base", "C-N2", "big"]
    with pytest.raises(ValueError, match="not ''"):
        chosen(",")


def test_a_diverged_row_has_a_perplexity_that_is_no_number():
    losses = {"base": 1.0, "big": 800.0}
    records = [
        {"overrides": "", "finished": "1 of 1", "problem": "", "validation_loss": Measured((loss,))}
        for loss in losses.values()
    ]
    _, big = with_paper([one for one in VARIATIONS if one.name in losses], records, "bleu")
    assert big["PPL"].mean == float("inf") and big["PPL's sign"] == "no?"


@pytest.mark.parametrize("scale", SCALES)
def test_every_row_has_the_papers_proportions_at_every_scale(scale):
    found = experiments(scale)
    base = found["base"].model
    assert base.num_heads == 8 and base.head_width * 8 == base.d_model
    assert len({repr(replace(one, variant="")) for one in found.values()}) == len(VARIATIONS) == 20
    for name, heads in (("A-h1", 1), ("A-h4", 4), ("A-h16", 16), ("A-h32", 32)):
        model = found[name].model
        assert (model.num_heads, model.num_heads * model.head_width) == (heads, base.d_model)
    for name, part in (("B-dk16", 4), ("B-dk32", 2)):
        assert (found[name].model.head_width * part, found[name].model.value_dim) == (base.head_width, base.head_width)
    layers = [found[name].model.num_layers for name in ("C-N2", "C-N4", "base", "C-N8")]
    assert layers == sorted(set(layers))
    assert [found[name].model.d_model / base.d_model for name in ("C-d256", "C-d1024", "big")] == [0.5, 2, 2]
    assert found["D-drop0.0"].model.dropout == 0 and found["D-drop0.2"].model.dropout == base.dropout + 0.1
    tasks = [found[f"D-ls{value}"].task for value in ("0.0", "0.2")]
    assert [task.label_smoothing for task in tasks if isinstance(task, Translation)] == [0.0, 0.2]
    assert isinstance(found["E-learned"].model.positions, Learned)
    peaks = [found[name].optimizer.learning_rate for name in ("base", "C-d256", "C-d1024", "big")]
    if peaks != [None] * 4:  # the paper's own follows the width
        np.testing.assert_allclose(np.array(peaks) / peaks[0], [1, 2**0.5, 2**-0.5, 2**-0.5], rtol=1e-3)
    big = found["big"]
    assert (big.model.d_ff, big.model.num_heads) == (2 * base.d_ff, 16)
    assert big.train.steps == 3 * found["base"].train.steps


def test_the_papers_parameters_follow_from_its_sizes_with_one_vocabulary_but_for_big():
    found = experiments("wmt14")
    assert found["big"].train.steps == 300_000 and found["big"].model.dropout == pytest.approx(0.3)
    millions = {
        one.name: round(replace(found[one.name].model, vocab_size=VOCABULARY).num_parameters() / 1e6)
        for one in VARIATIONS
        if one.parameters
    }
    assert len(millions) == 11 and millions.pop("big") == 218
    assert millions == {one.name: one.parameters for one in VARIATIONS if one.name in millions}
    assert round(replace(found["big"].model, vocab_size=37_000).num_parameters() / 1e6) == 214


def test_a_sign_holds_fails_or_is_not_claimed():
    base, lower, near = Measured((5.0, 5.2)), Measured((4.0, 4.1)), Measured((5.0, 5.0))
    assert sign(-0.3, base, lower) == "yes" and sign(0.3, base, lower) == "no"
    assert sign(-0.3, base, near) == "yes?" and sign(-0.3, base, Measured((4.0,))) == "yes?"
    assert sign(0.0, base, lower) == sign(-0.3, base, None) == sign(-0.3, base, Measured((4.0, float("nan")))) == ""


def test_the_table_counts_the_signs_that_held():
    variations = chosen("A-h1,C-d1024,E")
    losses = {"base": (2.0, 2.1), "A-h1": (2.5, 2.6), "C-d1024": (2.2, 2.3), "E-learned": (2.0, 2.2)}
    bleu = {"base": (20.0, 21.0), "A-h1": (10.0, 11.0), "C-d1024": (20.5, 21.0), "E-learned": (22.0, 25.0)}
    records = [
        {
            "overrides": "",
            "finished": "2 of 2",
            "validation_loss": Measured(losses[one.name]),
            "validation_bleu": Measured(bleu[one.name]),
            "problem": "",
        }
        for one in variations
    ]
    table = with_paper(variations, records, "bleu")
    assert [line["PPL's sign"] for line in table] == ["", "yes", "no", ""]
    assert [line["bleu's sign"] for line in table] == ["", "yes", "yes?", "no"]
    assert table[0]["PPL"].mean == pytest.approx((2.718281828**2.0 + 2.718281828**2.1) / 2)
    text = verdict(table, "bleu")
    assert "PPL: 1 of 2 changes against the base have the paper's sign, 1 of them by more" in text
    assert "bleu: 2 of 3" in text and "not so E-learned" in text
    assert "not so C-d1024 (within the spread)" in verdict(
        [line | {"PPL's sign": "no?"} for line in table[2:3]], "bleu"
    )


def test_rows_are_chosen_by_group_or_name_with_the_base(capsys):
    assert [one.name for one in chosen("C-N2,B")] == ["base", "B-dk16", "B-dk32", "C-N2"]
    assert main(["reproduce", "table3", "--rows", "F"]) == 2
    assert "--rows has groups and rows of base, A, B, C, D, E, big, A-h1," in capsys.readouterr().err
    assert main(["reproduce", "tabel3"]) == 2
    assert "did you mean table3?" in capsys.readouterr().err
