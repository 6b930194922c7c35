"""A tag for every word, such as those of named entities, by an encoder-only model (Devlin et al. 2019, section 5.3)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.config import DataConfig
from transformer_jax.data.labels import Labels
from transformer_jax.data.sources import Example
from transformer_jax.data.tokenizers import Tokenizer, TokenizerConfig
from transformer_jax.models.encoder_only import EncoderOnly, EncoderOnlyConfig
from transformer_jax.tasks.losses import label_sums
from transformer_jax.tasks.predictor import Predictor, listed
from transformer_jax.tasks.task import Sums, Task, Tokenizers, resolved


@dataclass(frozen=True)
class TokenClassification(Task):
    """Learns the `tags` of the words of a `text`, as many as it has between white space: BIO tags of entities."""

    features: ClassVar[tuple[str, ...]] = ("text", "tags")

    @property
    def columns(self) -> tuple[str, ...]:
        """The tokens and, for each, the tag's number plus 1 where it is the first of a word, and 0 elsewhere."""
        return ("tokens", "tags")

    def vocabularies(self, data: DataConfig) -> dict[str, TokenizerConfig]:
        """That of the text, and the tags."""
        return {"text": data.tokenizer, "tags": Labels(many=True)}

    def encode(
        self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int
    ) -> dict[str, list[list[int]]]:
        """A start token, the text and an end token, cut off at `max_length`.

        Raises ValueError for an example that has not as many tags as words.
        """
        tokenizer, columns = tokenizers["text"], {"tokens": [], "tags": []}
        for example in examples:
            words, tags = example["text"].split(), tokenizers["tags"].encode(example["tags"])
            if len(words) != len(tags):
                raise ValueError(f"an example has {len(words)} words and {len(tags)} tags: {example['text'][:60]!r}")
            ids, places = first_pieces(tokenizer, words)
            marks = [0] * len(ids)
            for place, tag in zip(places, tags, strict=True):
                marks[place] = tag + 1
            most = max_length - 2
            columns["tokens"].append([tokenizer.bos_id, *ids[:most], tokenizer.eos_id])
            columns["tags"].append([0, *marks[:most], 0])
        return columns

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderOnlyConfig:
        """The model with its sizes; ValueError where data and model contradict each other."""
        outputs = vocab_sizes["tags"]
        return resolved(self, model, EncoderOnlyConfig, data, vocab_sizes["text"], head="tokens", num_outputs=outputs)

    def loss(self, model: EncoderOnly, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """`loss` and `accuracy` of the first tokens of words."""
        logits = model(batch["tokens"], lengths=batch["tokens_length"], key=key)
        labels = jnp.pad(batch["tags"], [(0, 0), (0, batch["tokens"].shape[1] - batch["tags"].shape[1])]) - 1
        return label_sums(logits, labels, vocab_size=logits.shape[-1])

    def predictor(self, model: EncoderOnly, tokenizers: Tokenizers, data: DataConfig) -> "Tagger":
        """The model with `tag` and `entities`."""
        return Tagger(model, tokenizers["text"], tokenizers["tags"], max_length=data.max_length)

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        """The loss, and scores of words and of whole entities."""
        return {"loss": "lower", **dict.fromkeys(("accuracy", "precision", "recall", "f1"), "higher")}

    def evaluate(self, predictor: "Tagger", examples: Sequence[Example]) -> dict[str, Any]:
        """Accuracy of words, and precision, recall and F1 of whole entities by seqeval, in percent."""
        import seqeval.metrics

        measure: Any = seqeval.metrics  # its annotations are not those of its values
        predicted = predictor.tag([example["text"] for example in examples])
        right = [example["tags"].split() for example in examples]
        parts = {name: getattr(measure, f"{name}_score") for name in ("precision", "recall", "f1")}
        scores = {name: 100 * float(score(right, predicted, zero_division=0)) for name, score in parts.items()}
        return {"examples": len(examples), "accuracy": 100 * float(measure.accuracy_score(right, predicted)), **scores}

    def samples(self, predictor: "Tagger", examples: Sequence[Example]) -> list[str]:
        """Texts and the entities that the model tags in them."""
        texts = [example["text"] for example in examples]
        lines = []
        for text, entities in zip(texts, predictor.entities(texts), strict=True):
            lines += [text, "  -> " + (", ".join(f"{entity.text} ({entity.kind})" for entity in entities) or "nothing")]
        return lines


class Entity(NamedTuple):
    """A part of a text that has a name."""

    kind: str
    """Such as person: the tag without B- or I-."""
    text: str
    """The part itself."""
    start: int
    """Where it begins, in characters of the text."""
    end: int
    """Where it ends."""


class Tagger(Predictor):
    """Tags words."""

    def __init__(self, model: EncoderOnly, tokenizer: Tokenizer, tags: Tokenizer, *, max_length: int):
        super().__init__(model, tokenizer, max_length=max_length)
        self.tags = tags

    def tag(self, texts: Sequence[str]) -> list[list[str]]:
        """The tag of every word of every text; words are what white space separates.

        A text of more than `max_length` tokens is read in pieces. Raises ValueError for a word that fits in none.
        """
        tags: list[list[str]] = [[] for _ in listed(texts)]
        pieces = [
            (owner, [self.tokenizer.bos_id, *ids, self.tokenizer.eos_id], places)
            for owner, text in enumerate(texts)
            for ids, places in self._pieces(text.split(), owner + 1)
        ]
        best = self.for_each(_most_probable_tags, [ids for _, ids, _ in pieces])
        for (owner, _, places), row in zip(pieces, best, strict=True):
            tags[owner] += [self.tags.decode([int(row[place + 1])]) for place in places]
        return tags

    def entities(self, texts: Sequence[str]) -> list[list[Entity]]:
        """The entities of every text, where its tags are B-kind, I-kind and O; an I- without a beginning begins one."""
        return [_entities(text, tags) for text, tags in zip(texts, self.tag(texts), strict=True)]

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


def _entities(text: str, tags: list[str]) -> list[Entity]:
    spans: list[tuple[str, int, int]] = []
    before = "O"
    for word, tag in zip(re.finditer(r"\S+", text), tags, strict=True):
        kind = tag[2:]
        if tag.startswith("I-") and spans and before[2:] == kind and before != "O":
            spans[-1] = (kind, spans[-1][1], word.end())
        elif tag.startswith(("B-", "I-")):
            spans.append((kind, word.start(), word.end()))
        before = tag
    return [Entity(kind, text[start:end], start, end) for kind, start, end in spans]


@jax.jit
def _most_probable_tags(model: EncoderOnly, tokens: Array, lengths: Array) -> Array:
    return jnp.argmax(model(tokens, lengths=lengths), axis=-1)
