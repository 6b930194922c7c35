"""A run that version 0.1.0 left at step 6 of 12 goes on here as it would have there.

`run_of_0.1.0.tar.gz` was written by commit 5c1739a, and so were the numbers: of the same run, never stopped.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from transformer_jax.cli.main import main
from transformer_jax.runs.metrics import read_metrics
from transformer_jax.runs.run import Run

LOSSES = [
    *(5.641737937927246, 5.3502397537231445, 5.014115333557129, 4.852343559265137, 4.490910530090332),
    *(4.244908809661865, 4.059671878814697, 3.8126935958862305, 3.7632498741149902, 3.5245742797851562),
    *(3.4446606636047363, 3.380678176879883),
]
VALIDATION_LOSSES = {4: 3.9325045585632323, 8: 3.1556839466094972, 12: 2.827876257896423}
TEST_LOSS = 3.0463100401560466


def test_an_old_run_is_opened_goes_on_to_the_same_numbers_and_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(Path(__file__).with_name("run_of_0.1.0.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    run = tmp_path / "run"
    assert Run.open(run).checkpoint_steps() == [6]
    with pytest.raises(ValueError, match="no evaluation gave a number for validation_loss; use --checkpoint last"):
        Run.open(run).checkpoint_steps("best")
    assert main(["train", str(run / "experiment.py"), "--workdir", str(run)]) == 0
    out = capsys.readouterr().out
    assert "going on from step 6\n" in out and "done in" in out
    rows = read_metrics(run)
    np.testing.assert_allclose([row["loss"] for row in rows], LOSSES, rtol=1e-5)
    validation = {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}
    assert validation == pytest.approx(VALIDATION_LOSSES, rel=1e-5)
    assert main(["evaluate", str(run), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["checkpoint"] == [12] and scores["loss"] == pytest.approx(TEST_LOSS, rel=1e-5)
