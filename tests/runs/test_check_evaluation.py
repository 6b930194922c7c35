"""What evaluation would refuse after training is refused before it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.labels import Labels
from transformer_jax.data.sources import Example, Source
from transformer_jax.data.tokenizers import Bytes
from transformer_jax.models.encoder_only import bert
from transformer_jax.runs.evaluation import check_evaluation
from transformer_jax.runs.run import Run
from transformer_jax.tasks.classification import Classification
from transformer_jax.tasks.token_classification import TokenClassification
from transformer_jax.tasks.translation import Translation
from transformer_jax.training.experiment import Experiment

WHOLE = {"text": "fair", "label": "good", "tags": "O", "source": "a", "target": "b"}


@dataclass(frozen=True)
class Changed(Source):
    """Examples that are right but for the second one of the test split."""

    changes: tuple[tuple[str, str], ...] = ()

    def examples(self, split: str) -> Iterator[Example]:
        yield WHOLE
        yield WHOLE | dict(self.changes if split == "test" else ())


def run_of(directory: Path, task: Any, **changes: str) -> Run:
    data = DataConfig(source=Changed(tuple(changes.items())), tokenizer=Bytes(), max_length=10)
    text, labels, tags = Bytes().train([]), Labels().train(["good", "bad"]), Labels(many=True).train(["O"])
    tokenizers = {"text": text, "source": text, "target": text, "label": labels, "tags": tags}
    return Run(directory, Experiment(task=task, data=data, model=bert()), tokenizers)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        (Classification(), {"label": "goood"}, "the test examples cannot be scored: there is no label 'goood'"),
        (TokenClassification(), {"text": "abcdefghijk"}, "the test .* a word of more than 8 tokens: 'abcdefghijk'"),
        (TokenClassification(), {"tags": "O O"}, "the test examples .* 1 words and 2 tags"),
    ],
)
def test_an_example_that_only_the_test_split_has_is_checked(
    tmp_path: Path, task: Any, changes: dict[str, str], message: str
) -> None:
    run = run_of(tmp_path, task, **changes)
    check_evaluation(run, "validation")
    with pytest.raises(ValueError, match=message):
        check_evaluation(run, "test")


def test_a_package_that_a_score_needs_is_missed_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sacrebleu.tokenizers.tokenizer_ja_mecab

    monkeypatch.setattr(sacrebleu.tokenizers.tokenizer_ja_mecab, "MeCab", None)
    check_evaluation(run_of(tmp_path, Translation()), "test")
    with pytest.raises(ValueError, match=r"cannot .*: task.bleu_tokenize ja-mecab .* pip install sacrebleu\[ja\]"):
        check_evaluation(run_of(tmp_path, Translation(bleu_tokenize="ja-mecab")), "test")
