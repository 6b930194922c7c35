import itertools
from collections import Counter

import pytest

from transformer_jax.data.python_docs import DocstringSummaries, PythonDocs


def test_documents_are_in_one_split_each_with_text_and_label():
    splits = {split: list(PythonDocs().examples(split)) for split in ("train", "validation", "test")}
    texts = {split: {example["text"] for example in examples} for split, examples in splits.items()}
    for one, other in itertools.combinations(texts.values(), 2):
        assert not one & other
    assert len(texts["train"]) == len(splits["train"]) > 2_000
    share = len(texts["test"]) / sum(map(len, texts.values()))
    assert 0.07 < share < 0.13
    labels = {example["label"] for example in splits["train"]}
    assert {"topics", "asyncio", "email"} <= labels and "test" not in labels
    assert any("Raise SystemExit(status)" in text or "context manager" in text for text in texts["train"])


def test_the_most_common_labels_are_those_of_most_documents():
    def counts(source):
        return Counter(
            example["label"] for split in ("train", "validation", "test") for example in source.examples(split)
        )

    everything, few = counts(PythonDocs()), counts(PythonDocs(most_common=5))
    assert len(few) == 5 and few == {label: everything[label] for label in few}
    assert min(few.values()) >= sorted(everything.values())[-5]


def test_fields_decide_the_fingerprint_and_bad_ones_are_refused():
    assert PythonDocs().fingerprint("train") == PythonDocs().fingerprint("train")
    assert PythonDocs().fingerprint("train") != PythonDocs(most_common=3).fingerprint("train")
    for source, split in ((PythonDocs(), "dev"), (PythonDocs(holdout=0.6), "train")):
        with pytest.raises(ValueError, match="splits are|data.source.holdout must be above 0 and below 0.5"):
            list(source.examples(split))


@pytest.mark.slow
def test_summaries_are_first_lines_that_differ_each_in_one_split():
    source = DocstringSummaries(packages=("rich",))
    splits = {split: list(source.examples(split)) for split in ("train", "validation", "test")}
    targets = [example["target"] for examples in splits.values() for example in examples]
    assert len(set(targets)) == len(targets) > 1_500
    assert 0.05 < len(splits["test"]) / len(targets) < 0.11
    below = {example["target"]: example["source"] for examples in splits.values() for example in examples}
    logged = below["A LogRecord instance represents an event being logged."]
    assert logged.startswith("LogRecord instances are created every time something is logged.")
    assert not any("\n" in target for target in targets)
    assert len(list(DocstringSummaries(packages=()).examples("train"))) < len(splits["train"])
    with pytest.raises(ValueError, match="there is no package no_such_package in this Python; leave it out"):
        list(DocstringSummaries(packages=("no_such_package",)).examples("train"))
