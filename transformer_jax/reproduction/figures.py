"""Figures 3 to 5 of "Attention Is All You Need" (Vaswani et al. 2017): what heads of the encoder look at.

Which heads are shown follows from a measure of the self-attention weights w[q, k] of a sentence, in all layers:

long distance        the mean over queries q of sum_k w[q, k] |q - k|, in tokens: the head with the highest
anaphora             w[pronoun, k] of an English pronoun and a token k before it that may be a noun: the head with
                     the highest; what may be one is the first piece of a word, of three letters or more and none of the
                     stop words of scikit-learn
sentence structure   the mean over queries of half of sum_k |w1[q, k] - w2[q, k]|, from 0 to 1: of the pairs of heads in
                     one layer those two that differ most
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from transformer_jax.data.tokenizers import WORD_BEGIN
from transformer_jax.tasks.predictor import AttentionMap

SENTENCES = (
    "It is in this spirit that a majority of American governments have passed new laws since 2009 making the "
    "registration or voting process more difficult .",
    "The Law will never be perfect , but its application should be just - this is what we are missing , "
    "in my opinion .",
)
"""Those of the paper's figures 3 and of 4 and 5."""
# fmt: off
PRONOUNS = (
    "it", "its", "itself", "he", "him", "his", "himself", "she", "her", "hers", "herself",
    "they", "them", "their", "theirs", "themselves",
)
# fmt: on


@dataclass(frozen=True)
class Shown:
    """Heads of one layer that a measure has chosen; layers and heads are numbered from 1."""

    figure: str
    layer: int
    heads: tuple[int, ...]
    value: float
    measure: str

    def __str__(self) -> str:
        heads = " and ".join(map(str, self.heads))
        return f"{self.figure}: layer {self.layer}, head {heads}: {self.measure} {self.value:.3g}"


def figures(attention: AttentionMap) -> Iterator[Shown]:
    """The heads that each measure chooses; of anaphora there are none in a sentence without a pronoun and a noun."""
    weights, tokens = attention.weights, attention.queries
    yield long_distance(weights)
    if found := anaphora(weights, tokens):
        yield found
    if weights.shape[1] > 1:
        yield structure(weights)


def long_distance(weights: np.ndarray) -> Shown:
    """The head with the highest mean distance."""
    at = np.arange(weights.shape[-1])
    distances = (weights * abs(at[:, None] - at)).sum(-1).mean(-1)
    layer, head = np.unravel_index(distances.argmax(), distances.shape)
    mean = "mean distance in tokens"
    return Shown("long distance", int(layer) + 1, (int(head) + 1,), float(distances[layer, head]), mean)


def anaphora(weights: np.ndarray, tokens: Sequence[str]) -> Shown | None:
    """The head in which a pronoun attends most to one word before it that may be a noun."""
    words = [token.removeprefix(WORD_BEGIN).lower() for token in tokens]
    whole = [
        token.startswith(WORD_BEGIN) and not after[:1].isalnum()
        for token, after in itertools.zip_longest(tokens, tokens[1:], fillvalue="")
    ]
    pairs = [
        (query, key)
        for query, key in itertools.product(range(len(words)), repeat=2)
        if key < query and whole[query] and words[query] in PRONOUNS and _may_be_noun(tokens[key])
    ]
    if not pairs:
        return None
    queries, keys = np.array(pairs).T
    found = weights[:, :, queries, keys]
    layer, head, pair = np.unravel_index(found.argmax(), found.shape)
    measure = f"weight of {words[queries[pair]]!r} (token {queries[pair] + 1}) on {words[keys[pair]]!r}"
    return Shown("anaphora", int(layer) + 1, (int(head) + 1,), float(found[layer, head, pair]), measure)


def structure(weights: np.ndarray) -> Shown:
    """The two heads of one layer that differ most."""
    pairs = np.array(list(itertools.combinations(range(weights.shape[1]), 2)))
    differences = 0.5 * abs(weights[:, pairs[:, 0]] - weights[:, pairs[:, 1]]).sum(-1).mean(-1)
    layer, pair = np.unravel_index(differences.argmax(), differences.shape)
    heads = tuple(int(head) + 1 for head in pairs[pair])
    difference = "mean difference of their rows, of 1,"
    return Shown("sentence structure", int(layer) + 1, heads, float(differences[layer, pair]), difference)


def picture(attention: AttentionMap, shown: Shown) -> AttentionMap:
    """The weights of the chosen heads alone."""
    weights = attention.weights[[shown.layer - 1]][:, [head - 1 for head in shown.heads]]
    title = shown.figure.capitalize()
    return AttentionMap(title, weights, attention.queries, attention.keys, layers=(shown.layer,), heads=shown.heads)


def _may_be_noun(token: str) -> bool:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    word = token.removeprefix(WORD_BEGIN).lower()
    return token.startswith(WORD_BEGIN) and word.isalpha() and len(word) > 2 and word not in ENGLISH_STOP_WORDS
