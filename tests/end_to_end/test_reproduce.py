"""`reproduce` from the command line."""

import csv
import json

from transformer_jax.cli.main import main


def test_the_first_table_is_measured_printed_and_drawn(tmp_path, capsys):
    arguments = ["reproduce", "table1", "--longest", "512", "--width", "8", "--workdir", str(tmp_path)]
    assert main([*arguments, "--dry-run"]) == 0
    assert not list(tmp_path.iterdir())
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "| self-attention" in printed and "O(log_k n)" in printed and "n = 512" in printed
    assert len(list(csv.DictReader((tmp_path / "table1.csv").open(encoding="utf-8")))) == 10
    assert (tmp_path / "table1.png").is_file() and json.loads((tmp_path / "table1.json").read_text())[0]["n"] == 256
    assert main(["reproduce", "table1", "--longest", "256"]) == 2


def test_heads_of_a_run_are_chosen_and_drawn(uninterrupted, tmp_path, capsys):
    output = tmp_path / "figures"
    assert main(["reproduce", "figures", "--workdir", str(uninterrupted), "--output", str(output), "it 12345"]) == 0
    printed = capsys.readouterr().out
    assert "long distance: layer 1, head" in printed and "sentence structure: layer 1, head 1 and 2" in printed
    assert (output / "sentence_1.png").is_file()
    page = (output / "sentence_1.html").read_text(encoding="utf-8")
    assert '"title":"Sentence structure"' in page and '"heads":[1,2]' in page


def test_a_dry_run_of_table_3_prints_every_row(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("transformer_jax.cli.sweep.make_plan", lambda experiment, devices: None)
    monkeypatch.setattr("transformer_jax.cli.sweep.cost", lambda row, plan: row.name)
    arguments = ["reproduce", "table3", "--scale", "wmt14", "--seeds", "2", "--dry-run", "--workdir", str(tmp_path)]
    assert main([*arguments, "--data.source.directory", "DIR"]) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("transformer-jax")]
    assert len(commands) == 40
    assert all("--variant en_de_base_files" in line and "--data.source.directory DIR" in line for line in commands)
