"""The costs of table 2."""

from pathlib import Path

import jax
import pytest

from transformer_jax.analysis.plan import topology, with_vocabulary
from transformer_jax.cli.main import main
from transformer_jax.parallel.mesh import make_mesh
from transformer_jax.reproduction.table2 import (
    FILE,
    GPUS,
    MODELS,
    SENTENCE,
    SUSTAINED,
    TOKENS,
    as_counted,
    draw,
    table,
    verdict,
)
from transformer_jax.runs.experiment_file import load_experiment_file
from transformer_jax.training.step import abstract_state, make_update

EXPERIMENTS = [load_experiment_file(Path(__file__).parents[2] / FILE, paper.variant) for paper in MODELS]


def by_hand(model, steps):
    """Three times the products of the forward pass: maps, scores and sums of values, logits."""
    attention = 4 * model.d_model**2 + 2 * SENTENCE * model.d_model
    feed_forward = 2 * model.d_model * model.d_ff
    layers = model.num_layers * (3 * attention + 2 * feed_forward)
    return 3 * 2 * TOKENS * (layers + model.d_model * 37_000) * steps


@pytest.mark.parametrize(("number", "share"), [(0, 0.29), (1, 0.42)])
def test_operations_of_training_are_counted_as_by_hand_and_a_part_of_the_papers(number, share):
    experiment = with_vocabulary(as_counted(EXPERIMENTS[number]))
    update = make_update(experiment)
    state = abstract_state(experiment.model, update.optimizer, make_mesh(experiment.mesh, jax.devices()[:1]))
    batch = experiment.task.abstract_batch(TOKENS // SENTENCE, SENTENCE)
    counted = update.model_flops(state, batch, jax.random.key(0)) * experiment.train.steps
    assert counted == pytest.approx(by_hand(experiment.model, experiment.train.steps), rel=1e-3)
    assert counted / MODELS[number].flops == pytest.approx(share, abs=0.005)
    assert MODELS[number].hours * 3600 * GPUS * SUSTAINED == pytest.approx(MODELS[number].flops, rel=0.02)


@pytest.mark.slow
@pytest.mark.skipif(len(jax.devices()) < GPUS, reason="needs 8 devices")
def test_the_table_has_both_models_and_hours_that_fall_with_faster_chips():
    devices, _ = topology(f"cpu:{GPUS}")
    rows = list(table(EXPERIMENTS, devices, 0.4))
    assert [row["share"] for row in rows] == pytest.approx([0.29, 0.42], abs=0.005)
    assert [row["parameters"] for row in rows] == [63_045_632, 214_171_648]
    assert all(row["hours on v5e-8"] > row["hours on v5p-8 (4 chips)"] > row["hours on 8 H100"] > 0 for row in rows)
    assert "29 % (base) and 42 % (big)" in verdict(rows, 0.4)


def test_operations_and_hours_of_both_models_are_drawn(tmp_path):
    numbers = {"FLOP (paper)": 3e18, "FLOP counted": 1e18, "hours on 8 P100 (paper)": 12.0, "hours on v5e-8": 0.4}
    path = draw([{"model": model, **numbers} for model in ("base", "big")], tmp_path / "table2.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_dry_run_compiles_nothing(tmp_path, capsys):
    assert main(["reproduce", "table2", "--dry-run", "--workdir", str(tmp_path / "there")]) == 0
    assert "base and big for v5e-8, v5p-8 (4 chips), 8 H100" in capsys.readouterr().out
    assert not (tmp_path / "there").exists()
