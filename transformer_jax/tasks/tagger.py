"""A trained tagger as people use it: texts in, tags of their words or entities out."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from transformer_jax.data.labels import Labels
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.models.encoder_only import EncoderOnly
from transformer_jax.parallel.axes import constrain
from transformer_jax.tasks.rows import for_each, listed


class Entity(NamedTuple):
    """A part of a text that has a name."""

    kind: str
    """Such as person: the tag without B-, I- and the like."""
    text: str
    """The part itself."""
    start: int
    """Where it begins, in characters of the text."""
    end: int
    """Where it ends."""


class Tagger:
    """Tags words. Unpacks into its parts: `model, tokenizer = tagger`."""

    def __init__(self, model: EncoderOnly, tokenizer: Tokenizer, tags: Labels, *, max_length: int):
        self.model = model
        self.tokenizer = tokenizer
        self.tags = tags
        self.max_length = max_length

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.tokenizer))

    def tag(self, texts: Sequence[str]) -> list[list[str]]:
        """The tag of every word of every text; words are what white space separates.

        A text of more than `max_length` tokens is read in pieces. Raises ValueError for a word that fits in none.
        """
        found: list[list[str]] = [[] for _ in listed(texts)]
        rows, owners = [], []
        for owner, text in enumerate(texts):
            for ids, places in self._pieces(text.split(), owner + 1):
                rows.append(([self.tokenizer.bos_id, *ids, self.tokenizer.eos_id], places))
                owners.append(owner)
        best = for_each(partial(_best, self.model), [ids for ids, _ in rows])
        for owner, (_, places), row in zip(owners, rows, best, strict=True):
            found[owner] += [self.tags.names[row[place + 1]] for place in places]
        return found

    def entities(self, texts: Sequence[str]) -> list[list[Entity]]:
        """The entities of every text: the `spans` of its tags, as they are scored."""
        found = []
        for text, tags in zip(texts, self.tag(texts), strict=True):
            words = [match.span() for match in re.finditer(r"\S+", text)]
            places = [(kind, words[first][0], words[end - 1][1]) for kind, first, end in spans(tags)]
            found.append([Entity(kind, text[start:end], start, end) for kind, start, end in places])
        return found

    def predict(self, lines: Sequence[str]) -> list[str]:
        """The tags of every line, with spaces between them."""
        return [" ".join(tags) for tags in self.tag(lines)]

    def _pieces(self, words: list[str], line: int) -> Iterator[tuple[list[int], list[int]]]:
        """Tokens of so many words as fit, and the place of each word's first."""
        if not words:
            return
        ids, places = first_pieces(self.tokenizer, words)
        ends, most, first = [*places[1:], len(ids)], self.max_length - 2, 0
        for word, end in enumerate(ends):
            if end - places[word] > most:
                raise ValueError(f"line {line} has a word of more than {most} tokens: {words[word][:40]!r}")
            if end - places[first] > most:
                yield ids[places[first] : places[word]], [place - places[first] for place in places[first:word]]
                first = word
        yield ids[places[first] :], [place - places[first] for place in places[first:]]


def first_pieces(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[list[int], list[int]]:
    """The tokens of words with spaces between them, and the place of the first token of each.

    A word of which nothing is left (it may be made of control characters) is the unknown token.
    """
    ids: list[int] = []
    places = []
    for encoded in tokenizer.encode_batch([f" {word}" if i else word for i, word in enumerate(words)]):
        places.append(len(ids))
        ids += encoded or [tokenizer.unk_id]
    return ids, places


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The entities that tags stand for: their kinds, the places of their first words and those behind their last.

    Tags of a first word begin with B-, of a further one with I- or M-, of the last with E- or L-, of the only one with
    S- or U-: that is BIO (with B- everywhere or not), BIOES, BILOU and BMES. A tag without such a letter is a kind by
    itself, O is none. As in seqeval's default mode, I- and E- begin an entity where none of their kind goes on.
    """
    found: list[tuple[str, int, int]] = []
    open_kind = None
    for place, tag in enumerate(tags):
        letter, _, kind = tag.partition("-") if tag[1:2] in ("", "-") and tag[:1] in "BIMELSU" else ("I", "", tag)
        if tag == "O":
            open_kind = None
            continue
        if letter in "IMEL" and kind == open_kind:
            found[-1] = (kind, found[-1][1], place + 1)
        else:
            found.append((kind, place, place + 1))
        open_kind = kind if letter in "BIM" else None
    return found


def span_scores(found: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """Accuracy of tags, and precision, recall and F1 of the `spans` of whole entities, in percent."""
    counts = Counter[str]()
    for one, other in zip(found, right, strict=True):
        counts["equal tags"] += sum(map(str.__eq__, one, other))
        counts["tags"] += len(other)
        ours, theirs = set(spans(one)), set(spans(other))
        counts.update({"equal": len(ours & theirs), "found": len(ours), "right": len(theirs)})
    parts = {"accuracy": ("equal tags", "tags"), "precision": ("equal", "found"), "recall": ("equal", "right")}
    scores = {name: 100 * counts[part] / max(counts[whole], 1) for name, (part, whole) in parts.items()}
    return scores | {"f1": 200 * counts["equal"] / max(counts["found"] + counts["right"], 1)}


@jax.jit
def _best(model: EncoderOnly, tokens: Array, lengths: Array) -> Array:
    return jnp.argmax(model(constrain(tokens, ("batch", "length")), lengths=lengths), axis=-1)
