"""Training ends where evaluations have ceased to become better."""

import math

import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files
from transformer_jax.models.encoder_decoder import base
from transformer_jax.runs.patience import Patience
from transformer_jax.tasks.translation import Translation
from transformer_jax.training.experiment import Experiment, TrainConfig


def exhausted_after(values, patience, metric="validation_loss"):
    """The number of evaluations after which training ends; None: it goes on."""
    train = TrainConfig(patience=patience, best=metric)
    of_run = Patience(Experiment(task=Translation(), data=DataConfig(source=Files()), model=base(), train=train))
    for count, value in enumerate(values, 1):
        of_run.add({"step": count, metric: value})
        of_run.add({"step": count, "loss": 1.0})  # a row without an evaluation
        if of_run.exhausted:
            return count
    return None


@pytest.mark.parametrize(
    ("values", "patience", "expected"),
    [
        ([3.0, 2.0, 2.5, 1.0, 1.5, 1.2, 1.1], 3, 7),
        ([3.0, 2.0, 2.5, 1.0, 1.5, 1.2, 1.1], 2, 6),
        ([3.0, 3.0], 1, 2),  # an equal one is no better
        ([3.0, None, math.nan], 2, 3),
        ([None, 3.0], 2, None),
        ([3.0] * 9, 0, None),
    ],
)
def test_training_ends_after_so_many_evaluations_without_a_better_one(values, patience, expected):
    assert exhausted_after(values, patience) == expected


def test_higher_scores_are_better():
    assert exhausted_after([1.0, 2.0, 3.0, 2.0], 1, "validation_bleu") == 4
