import io
import json
import math
import re
import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from tensorboardX.proto import event_pb2

from transformer_jax.runs import metrics
from transformer_jax.runs.metrics import METRICS, MetricsLog, as_json, read_metrics
from transformer_jax.runs.trackers import wandb

ROW = {"loss": 1 / 3, "tokens": 4096, "learning_rate": 4.1e-4, "tokens_per_second": 21_300.0}


def log_of(directory: Path, resume_step: int = 0, **arguments) -> MetricsLog:
    return MetricsLog(directory, total_steps=8_000, resume_step=resume_step, **arguments)


def shown_on_terminal(directory: Path, rows: list[dict], total_steps: int = 8_000, width: int = 100) -> str:
    """What the terminal got, without colours."""
    shown = io.StringIO()
    with MetricsLog(
        directory, total_steps=total_steps, console=Console(file=shown, force_terminal=True, width=width)
    ) as log:
        for row in rows:
            log.write(row)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())


def test_numbers_read_back_exactly(tmp_path):
    with log_of(tmp_path) as log:
        log.write({"step": 100, **ROW, "tiny": 5e-324})
    assert read_metrics(tmp_path) == [{"step": 100, **ROW, "tiny": 5e-324}]


def test_a_row_is_on_disk_before_the_next_one_is_written(tmp_path):
    with log_of(tmp_path) as log:
        log.write({"step": 100, **ROW})
        assert [row["step"] for row in read_metrics(tmp_path)] == [100]


def test_every_line_is_json_though_a_number_is_not_finite(tmp_path, capsys):
    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    with log_of(tmp_path) as log:
        log.write({"step": 100, "loss": math.nan, "validation_loss": math.inf})
    line = (tmp_path / METRICS).read_text()
    assert json.loads(line, parse_constant=refuse) == {"step": 100, "loss": None, "validation_loss": None}
    assert capsys.readouterr().err == ""


def test_resuming_keeps_each_step_once(tmp_path):
    with log_of(tmp_path) as log:
        for step in (100, 200, 300):
            log.write({"step": step, **ROW})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 400, "lo')  # what kill -9 may leave
    with log_of(tmp_path, resume_step=200) as log:
        log.write({"step": 300, **ROW, "loss": 0.5})
    assert read_metrics(tmp_path) == [{"step": 100, **ROW}, {"step": 200, **ROW}, {"step": 300, **ROW, "loss": 0.5}]
    with log_of(tmp_path):
        assert read_metrics(tmp_path) == []


def test_a_torn_last_line_is_no_row_and_a_torn_other_one_is_named(tmp_path):
    assert read_metrics(tmp_path) == []
    (tmp_path / METRICS).write_text('{"step": 1}\n{"step": 2, "loss": 0.')
    assert read_metrics(tmp_path) == [{"step": 1}]
    (tmp_path / METRICS).write_text('{"step": 1}\n{"step": 2, "l\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:2 .* delete that line"):
        read_metrics(tmp_path)


def test_tensorboard_gets_every_value_and_forgets_what_a_resumed_run_repeats(tmp_path):
    Event = vars(event_pb2)["Event"]
    with log_of(tmp_path, resume_step=200) as log:
        log.write({"step": 300, "loss": 0.5, "validation_bleu": 40.0})
    values, purged = {}, []
    for file in (tmp_path / "tensorboard").iterdir():
        data = file.read_bytes()
        while data:  # a record: its length, a checksum of that, the event, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            values |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            purged += [event.step] if event.HasField("session_log") else []
            data = data[16 + length :]
    assert values == {("train/loss", 300): 0.5, ("validation/bleu", 300): 40.0}
    assert purged == [201]


class FakeWandb(ModuleType):
    """Remembers what Weights & Biases would have got."""

    def __init__(self):
        super().__init__("wandb")
        self.errors = SimpleNamespace(Error=ConnectionError)
        self.begun, self.rows, self.finished = [], [], 0

    def init(self, **settings):
        self.begun.append(settings)
        return self

    def define_metric(self, name, *, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.finished += 1


def test_weights_and_biases_gets_finite_values_in_one_run_that_goes_on(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (100, 200):
        with log_of(tmp_path, step - 100, log_to=("wandb",), experiment={"class": "Experiment"}) as log:
            log.write({"step": step, "loss": 0.5, "nll": math.nan, "validation_bleu": 40.0})
    assert fake.rows == [{"step": step, "train/loss": 0.5, "validation/bleu": 40.0} for step in (100, 200)]
    assert fake.finished == 2
    first, second = fake.begun
    assert first == second, "the same id"
    assert (first["name"], first["resume"], first["config"]) == (tmp_path.name, "allow", {"class": "Experiment"})
    assert not (tmp_path / "tensorboard").exists()

    def refuse(**_):
        raise ConnectionError("no login")

    monkeypatch.setattr(fake, "init", refuse)
    with pytest.raises(ValueError, match="no login .wandb login, or WANDB_MODE=offline"):
        log_of(tmp_path, log_to=("wandb",), experiment={})
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"train.log_to wandb needs a package: pip install 'transformer-jax\[wandb\]'"):
        wandb()


def test_a_log_file_gets_aligned_plain_lines_and_stderr_stays_clean(tmp_path, capsys):
    with log_of(tmp_path) as log:
        log.write({"step": 100, **ROW})
        log.write({"step": 8_000, **ROW, "loss": 12.5, "tokens_per_second": 900.0, "validation_bleu": 41.02})
        log.message("[saved] 100 %")
    output = capsys.readouterr()
    first, second, validation, message = output.out.splitlines()
    assert first == "step   100/8,000  loss  0.3333  lr 4.10e-04   21,300 tokens/s", "one row is no pace"
    assert re.fullmatch(r"step 8,000/8,000  loss 12.5000  lr 4.10e-04      900 tokens/s  ETA 0:00:00", second)
    assert validation == "step 8,000/8,000  validation  bleu 41.02"
    assert message == "[saved] 100 %"
    assert output.err == ""


def test_a_terminal_gets_a_bar_and_a_line_for_every_evaluation(tmp_path, capsys):
    shown = shown_on_terminal(tmp_path, [{"step": 100, **ROW}, {"step": 200, **ROW, "validation_bleu": 41.02}])
    assert "━" in shown
    assert "step   200/8,000  loss  0.3333" in shown.splitlines()[-1]
    assert shown.count("step   200/8,000  validation  bleu 41.02\n") == 1
    assert capsys.readouterr() == ("", "")


def test_a_bar_fits_eighty_columns(tmp_path):
    rows = [{"step": step, **ROW} for step in (1, 12_300)]
    shown = shown_on_terminal(tmp_path, rows, total_steps=100_000, width=80)
    assert re.search(r"━ step  12,300/100,000 .* 21,300 tokens/s  ETA \d+", shown.splitlines()[-1])


def test_what_takes_a_while_is_announced_with_its_time_which_the_pace_leaves_out(tmp_path, capsys, monkeypatch):
    clock = SimpleNamespace(monotonic=iter([0.0, 10.0, 70.0, 80.0]).__next__)
    monkeypatch.setattr(metrics, "time", clock)
    with log_of(tmp_path) as log:
        log.write({"step": 1, **ROW})
        with log.announced("compiling", "compiled"):
            assert capsys.readouterr().out.endswith("\ncompiling\n"), "before it is done"
        log.show({"step": 4_001, **ROW})
    compiled, row = capsys.readouterr().out.splitlines()
    assert compiled == "compiled in 60.0 s"
    assert row.endswith("ETA 0:00:20"), "4,000 steps in 20 s, and 3,999 more"
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]


def test_processes_other_than_the_first_write_nothing(tmp_path, capsys):
    with log_of(tmp_path / "run", enabled=False) as log:
        log.write({"step": 100, **ROW})
        log.message("hello")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


def test_a_number_that_is_not_finite_is_null_and_numpys_are_pythons() -> None:
    values = [math.nan, np.float32(math.inf), np.float32(0.5), 3, "13a", [10, 12]]
    assert json.dumps([as_json(value) for value in values]) == '[null, null, 0.5, 3, "13a", [10, 12]]'
