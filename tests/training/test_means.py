"""A row of metrics is what one batch of all its steps' examples would have given."""

import json

import pytest

from transformer_jax.training.means import Means

SHORT = {"loss": 5.0, "loss_weight": 100.0, "accuracy": 0.5, "accuracy_weight": 4.0, "tokens": 110.0, "norm": 1.0}
LONG = {"loss": 4.0, "loss_weight": 300.0, "accuracy": 1.0, "accuracy_weight": 1.0, "tokens": 310.0, "norm": 4.0}


def means_of_steps(*steps):
    means = Means()
    for metrics in steps:
        means.add(metrics)
    return means


def test_a_row_weighs_every_metric_by_its_own_weight_and_begins_anew():
    means = means_of_steps(SHORT, LONG)
    row = means.row()
    assert row == {"steps_averaged": 2, "loss": pytest.approx(4.25), "accuracy": 0.6, "tokens": 420, "norm": 2.5}
    means.add(SHORT)
    assert means.row()["loss"] == 5.0


def test_a_step_of_empty_rows_weighs_nothing():
    empty = dict.fromkeys(SHORT, 0.0)
    row = means_of_steps(SHORT, empty, LONG).row()
    assert (row["loss"], row["accuracy"], row["steps_averaged"]) == (4.25, 0.6, 3)


def test_means_that_were_saved_go_on_to_the_bit():
    half, whole = means_of_steps(SHORT, {**SHORT, "loss": 1 / 3}), means_of_steps(SHORT, {**SHORT, "loss": 1 / 3}, LONG)
    again = Means(json.loads(json.dumps(half.state())))
    again.add(LONG)
    assert again.row() == whole.row()
