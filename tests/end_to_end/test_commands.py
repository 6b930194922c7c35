import json
import re
import shutil
from collections.abc import Sequence

import pytest
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from sacrebleu.significance import PairedTest, Result

from transformer_jax.cli.main import main
from transformer_jax.runs.run import Run, load


def test_a_trained_run_is_evaluated_used_averaged_and_moved(straight, experiment_file, tmp_path, capsys, monkeypatch):
    assert main(["train", str(experiment_file), "--workdir", str(straight)]) == 0
    assert "exact_match" in capsys.readouterr().out
    assert {path.name for path in straight.iterdir()} >= {
        "experiment.json", "experiment.py", "tokenizer", "checkpoints", "metrics.jsonl", "curves.png"
    }  # fmt: skip
    moved = straight.rename(tmp_path / "moved")

    def evaluate(*arguments):
        assert main(["evaluate", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    mean = evaluate(str(moved), "--checkpoint", "average:2")
    assert mean["examples"] == 60 and mean["checkpoint"] == [10, 12] and "signature" in mean
    monkeypatch.chdir(moved)
    assert main(["average", ".", "--last", "2"]) == 0
    capsys.readouterr()
    assert evaluate(str(tmp_path / "moved-average"))["loss"] == mean["loss"]
    assert evaluate(".", "--data.source.count", "5")["examples"] == 5

    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("12\n\n345\n")
    target.write_text("21\n\n543\n")
    assert main(["predict", str(moved), "--input", str(source), "--output", str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out").read_text().split("\n")
    assert len(lines) == 4 and lines[1] == ""
    assert main(["score", str(moved), "--source", str(source), "--target", str(target)]) == 0
    assert len([float(line) for line in capsys.readouterr().out.split()]) == 3
    assert main(["attention", str(moved), "12"]) == 0
    assert (moved / "attention" / "attention.png").stat().st_size > 1000


def test_other_training_text_is_refused_and_the_run_stays_as_it_is(experiment_file, tmp_path, capsys):
    arguments = ["train", str(experiment_file), "--workdir", str(tmp_path / "run")]
    assert main([*arguments, "--train.stop-after", "2"]) == 0
    before = (tmp_path / "run" / "experiment.json").read_bytes()
    experiment_file.write_text(experiment_file.read_text().replace("1_000", "2_000"))
    capsys.readouterr()
    assert main(arguments) == 2
    assert "other training text" in capsys.readouterr().err
    assert (tmp_path / "run" / "experiment.json").read_bytes() == before


def test_runs_are_compared_by_their_predictions_as_evaluate_makes_them(straight, tmp_path, capsys):
    def answer(*arguments):
        assert main([*map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert main(["average", str(straight), "--last", "3", "--output", str(tmp_path / "mean")]) == 0
    capsys.readouterr()
    runs, scores = [straight, tmp_path / "mean"], ["--scores", "chrf++", "ter"]
    found = answer("compare", *runs, *scores, "--resamples", "100")
    assert (found["examples"], found["skipped"], found["checkpoints"]) == (60, 0, [[12], [12]])
    alone = [answer("evaluate", run, *scores) for run in runs]
    sources = [example["source"] for example in Run.open(straight).examples("test")[0]]
    systems: list[tuple[str, Sequence[str]]] = [(str(run), load(run).translate(sources)) for run in runs]
    metrics = {"chrf++": CHRF(word_order=2), "ter": TER()}
    references = [[source[::-1] for source in sources]]
    _, direct = PairedTest(systems, metrics, references, test_type="bs", n_samples=100)()
    for name, title in (("chrf++", "chrF2++"), ("ter", "TER")):
        one, other = (result for result in direct[title] if isinstance(result, Result))
        assert found["scores"][name]["scores"] == [each[name] for each in alone] == [one.score, other.score]
        assert found["scores"][name]["p_value"] == (1 if one.score == other.score else other.p_value)

    # A run with itself, on files of which a line has two right outputs, and one is too long for the model.
    texts = {"source": f"12\n345\n{'6' * 20}\n", "one": "x\n543\n6\n", "other": "21\n543\n6\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    files = [part for name, file in zip(("source", "reference", "reference"), texts, strict=True)
             for part in (f"--{name}", tmp_path / file)]  # fmt: skip
    same = answer("compare", straight, straight, *files, "--scores", "exact_match")
    assert (same["examples"], same["skipped"]) == (2, 1) and same["scores"]["exact_match"]["p_value"] == 1
    assert "nrefs:2" in answer("evaluate", straight, *files, "--scores", "bleu")["signature"]
    assert main(["compare", *map(str, runs), "--scores", "bleu"]) == 0
    assert re.search(r"^bleu +[\d.]+ \([\d.]+ ± [\d.]+\) .* \d\.\d{4}$", capsys.readouterr().out, re.MULTILINE)
    for options, message in (
        (["--resamples", "1"], "--resamples is 2 at least"),
        (["--scores", "blue"], "unknown score 'blue'"),
        (["--source", tmp_path / "source"], "--source and --reference go together"),
    ):
        assert main(["compare", *map(str, [*runs, *options])]) == 2
        assert message in capsys.readouterr().err


def test_runs_with_other_examples_are_not_compared(straight, tmp_path, capsys):
    other = shutil.copytree(straight, tmp_path / "other")
    file = other / "experiment.py"
    file.write_text(file.read_text().replace("7_000", "7_001"))
    assert main(["compare", str(straight), str(other)]) == 2
    assert "differ; give the same ones by --source and --reference" in capsys.readouterr().err


@pytest.mark.slow
def test_runs_are_evaluated_together(straight, experiment_file, tmp_path, capsys):
    other = str(tmp_path / "other")
    options = ["--train.seed", "1", "--train.steps", "4", "--model.d-model", "8"]
    assert main(["train", str(experiment_file), "--workdir", other, *options]) == 0
    capsys.readouterr()

    def loss(*runs):
        assert main(["evaluate", *runs, "--json", "--data.source.count", "9"]) == 0
        return json.loads(capsys.readouterr().out)

    alone, twice, both = (loss(str(straight), *more) for more in ([], [str(straight)], [other]))
    assert twice["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert both["ensemble"] == {str(straight): [12], other: [4]}
    assert alone["loss"] != pytest.approx(both["loss"], rel=1e-3) and "bleu" in both
    changed = [*options, "--data.tokenizer.mask", "True"]
    third = str(tmp_path / "third")
    assert main(["train", str(experiment_file), "--workdir", third, *changed]) == 0
    assert main(["evaluate", str(straight), third]) == 2
    assert "an ensemble has one vocabulary" in capsys.readouterr().err
