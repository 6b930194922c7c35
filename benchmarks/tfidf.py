"""A linear model on TF-IDF, fitted to the train split of a classification run and scored beside it on the test split.

    python benchmarks/tfidf.py RUN [--split test]

Words and pairs of words, logistic regression of scikit-learn; its strength is chosen on the validation split.
"""

import argparse

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from transformer_jax.runs.run import Run


def texts_and_labels(run: Run, split: str) -> tuple[list[str], list[str]]:
    """Of a split, in order; a pair is its two texts one after the other."""
    *parts, label = run.experiment.task.features
    examples, _ = run.examples(split)
    return [" ".join(example[part] for part in parts) for example in examples], [example[label] for example in examples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    run = Run.open(options.run)
    train, validation = texts_and_labels(run, "train"), texts_and_labels(run, "validation")
    best, strength = None, 0.0
    for inverse in (1.0, 10.0, 100.0):
        linear = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=inverse, max_iter=1000)
        ).fit(*train)
        if best is None or linear.score(*validation) > best.score(*validation):
            best, strength = linear, inverse
    assert best is not None
    texts, labels = texts_and_labels(run, options.split)
    steps = run.checkpoint_steps()
    found = run.experiment.task.predictor(run.model_of(steps), run.tokenizers, run.experiment.data).predict(texts)
    right = sum(one == other for one, other in zip(found, labels, strict=True))
    print(f"TF-IDF and logistic regression (C={strength:g}): {100 * best.score(texts, labels):.2f} % accuracy")
    print(f"{run.directory}, step {', '.join(map(str, steps))}: {100 * right / len(labels):.2f} % accuracy")


if __name__ == "__main__":
    main()
