"""A moving average of the parameters is kept through a stop and evaluated by its name."""

import json

import numpy as np
import pytest

from transformer_jax.cli.main import main
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.runs.run import Run


@pytest.mark.slow
def test_the_moving_average_is_that_of_the_checkpoints_though_the_run_was_stopped(experiment_file, tmp_path, capsys):
    directory, decay = tmp_path / "run", 0.25
    command = ["train", str(experiment_file), "--workdir", str(directory), "--optimizer.ema", str(decay)]
    command += ["--train.steps", "5", "--train.save-every", "1", "--train.keep", "9", "--train.checkpoint", "ema"]
    assert main([*command, "--train.stop-after", "2"]) == 0
    assert main(command) == 0
    assert "with the parameters of step 5, moving average\n" in capsys.readouterr().out
    run = Run.open(directory)
    expected = named_parameters(run.experiment.model.build(0))
    for step in range(1, 6):
        d = min(decay, (1 + step) / (10 + step))
        after = named_parameters(run.model_of([step]))
        expected = {name: d * expected[name] + (1 - d) * after[name] for name in after}
    found = named_parameters(run.model_of(run.checkpoint_steps("ema")))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
        assert not np.array_equal(found[name], after[name]), name

    def loss(*arguments):
        assert main(["evaluate", str(directory), *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)["loss"]

    assert loss() == loss("--checkpoint", "ema") != loss("--checkpoint", "last")


def test_a_run_without_a_moving_average_says_so(uninterrupted, capsys):
    assert main(["evaluate", str(uninterrupted), "--checkpoint", "ema"]) == 2
    assert "was trained without optimizer.ema" in capsys.readouterr().err
