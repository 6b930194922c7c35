"""Batches of a prepared run have the room that its experiment asks for."""

import numpy as np
import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.tokenizers import SentencePiece
from transformer_jax.data.trees import Treebank
from transformer_jax.models.encoder_decoder import base
from transformer_jax.runs.preparation import prepare
from transformer_jax.tasks.parsing import Parsing
from transformer_jax.training.experiment import Experiment

SIZE = {"d_model": 8, "num_heads": 2, "d_ff": 8, "num_layers": 1, "share_embeddings": False}


@pytest.mark.parametrize("subword_sampling", [0.0, 0.5])
def test_room_is_of_the_columns_that_are_cut_anew_alone(tmp_path, monkeypatch, subword_sampling):
    monkeypatch.chdir(tmp_path)
    words = ["bada", "goki", "zulo", "badagoki", "zulobada", "gokizulo"]
    trees = [f"(S (NP (NN {a}) (NN {b})) (VP (VB {c})))" for a in words for b in words for c in words]
    (tmp_path / "trees.mrg").write_text("\n".join(trees))
    (tmp_path / "experiment.py").touch()
    data = DataConfig(
        source=Treebank(directory=str(tmp_path), train=("trees.mrg",), validation=(), test=()),
        tokenizer=SentencePiece(vocab_size=30),
        shared_vocabulary=False,
        subword_sampling=subword_sampling,
        sampling_room=3.0,
        max_length=200,
        tokens_per_batch=800,
        num_buckets=1,
    )
    experiment = Experiment(task=Parsing(), data=data, model=base(**SIZE))
    prepared = prepare(experiment, tmp_path / "experiment.py", tmp_path / "run")
    words, tree = np.asarray(prepared.table.lengths).max(axis=0)
    (shape,) = prepared.plan.shapes
    room = 3 if subword_sampling else 1
    assert room * words <= shape.lengths[0] < room * words + 8 and tree <= shape.lengths[1] < tree + 8
