"""Bracketing scores of constituency trees, as the program `evalb` computes them with the parameters of COLLINS.prm.

These rules go back to Collins 1997 and are those of all published scores of the Penn Treebank (Sekine and Collins 1997,
nlp.cs.nyu.edu/evalb); packages that repeat them are not maintained. Of a tree,

- words are left out whose tags are `,` `:` double quotes or `.`, as are empty elements; so are constituents of which
  nothing remains, and positions count the words that remain;
- labels lose their functions (`data/trees.py` does that), and TOP, as the root is called, is not counted;
- ADVP and PRT are one label;
- a constituent is right if its label, its first and its last word are, and as often as the right tree has it.

Precision and recall are of all constituents of all trees together. `evalb` leaves out a sentence whose trees have
different words; here both trees have the same, since those predicted are repaired. Punctuation is known by the tags of
the right tree, whatever tags a model wrote.
"""

from collections import Counter
from collections.abc import Sequence

from transformer_jax.data.trees import ROOTS, spans

PUNCTUATION = {",", ":", "``", "''", "."}
"""Tags of words that are left out, and labels that are not counted."""
UNCOUNTED = {*ROOTS, *PUNCTUATION, "-NONE-"}
SAME = {"PRT": "ADVP"}

Brackets = Counter[tuple[str, int, int]]
"""How often a tree has a constituent of each label, start and end."""


def brackets(tokens: Sequence[str], tags: Sequence[str]) -> Brackets:
    """The constituents of a tree that count; `tags` are those of its words in the right tree."""
    places = [0]
    for tag in tags:
        places.append(places[-1] + (tag not in PUNCTUATION))
    found = ((SAME.get(label, label), places[start], places[end]) for label, start, end in spans(tokens))
    return Counter(one for one in found if one[0] not in UNCOUNTED and one[1] < one[2])


def branching(tags: Sequence[str], *, right: bool) -> Brackets:
    """The tree that branches to the right (S above VPs) or to the left (S above NPs) alone, of the words that count."""
    words = sum(tag not in PUNCTUATION for tag in tags)
    inner = [("VP", i, words) if right else ("NP", 0, words - i) for i in range(1, words - 1)]
    return Counter([("S", 0, words), *inner] if words else [])


def bracket_scores(predicted: Sequence[Brackets], right: Sequence[Brackets]) -> dict[str, float]:
    """Labelled precision, recall and F1, F1 without labels, and the share of trees that are right, all in percent."""
    precision, recall, f1 = _agreement(predicted, right)
    *_, unlabelled = _agreement(*([_without_labels(one) for one in trees] for trees in (predicted, right)))
    complete = sum(one == other for one, other in zip(predicted, right, strict=True)) / max(len(right), 1)
    scores = {"f1": f1, "precision": precision, "recall": recall, "unlabelled_f1": unlabelled}
    return {name: 100 * value for name, value in (scores | {"complete_match": complete}).items()}


def _agreement(predicted: Sequence[Counter], right: Sequence[Counter]) -> tuple[float, float, float]:
    """Precision, recall and F1."""
    matched = sum((one & other).total() for one, other in zip(predicted, right, strict=True))
    written, there = (sum(one.total() for one in trees) for trees in (predicted, right))
    return matched / max(written, 1), matched / max(there, 1), 2 * matched / max(written + there, 1)


def _without_labels(tree: Brackets) -> Counter:
    found: Counter[tuple[int, int]] = Counter()
    for (_, start, end), count in tree.items():
        found[start, end] += count
    return found


def tag_accuracy(found: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> float:
    """The percentage of words with the right tag; texts have as many tags in both."""
    pairs = [pair for tags, of in zip(found, right, strict=True) for pair in zip(tags, of, strict=True)]
    return 100 * sum(tag == of for tag, of in pairs) / max(len(pairs), 1)
