"""A tag for every word, such as those of named entities, by an encoder-only model (Devlin et al. 2019, section 5.3)."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.config import DataConfig
from transformer_jax.data.labels import Labels
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.data.vocabulary import VocabularyConfig
from transformer_jax.models.encoder_only import EncoderOnly, EncoderOnlyConfig
from transformer_jax.tasks.losses import label_sums
from transformer_jax.tasks.predictor import Predictor, listed
from transformer_jax.tasks.task import Sums, Task, Tokenizers, resolved


@dataclass(frozen=True)
class TokenClassification(Task):
    """Learns the `tags` of the words of a `text`, as many as it has between white space, such as those of entities."""

    features: ClassVar[tuple[str, ...]] = ("text", "tags")

    @property
    def columns(self) -> Columns:
        """The tokens and, for each, the tag's number plus 1 where it is the first of a word, and 0 elsewhere.

        `rest` has both for the tokens that do not fit in data.max_length.
        """
        return {"tokens": Column(), "tags": Column(), "rest": Column(item_shape=(2,), batched=False)}

    def vocabularies(self, data: DataConfig) -> dict[str, VocabularyConfig]:
        return {"text": data.tokenizer, "tags": Labels(many=True)}

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """A start token, the text and an end token, cut off at `max_length`; ValueError unless every word has a tag."""
        tokenizer, most, columns = tokenizers["text"], max_length - 2, {name: [] for name in self.columns}
        for example in examples:
            words, tags = example["text"].split(), tokenizers["tags"].ids(example["tags"])
            if len(words) != len(tags):
                raise ValueError(f"an example has {len(words)} words and {len(tags)} tags: {example['text'][:60]!r}")
            ids, places = first_pieces(tokenizer, words)
            marks = [0] * len(ids)
            for place, tag in zip(places, tags, strict=True):
                marks[place] = tag + 1
            columns["tokens"].append([tokenizer.bos_id, *ids[:most], tokenizer.eos_id])
            columns["tags"].append([0, *marks[:most], 0])
            columns["rest"].append(np.array([ids[most:], marks[most:]], np.int32).T)
        return columns

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderOnlyConfig:
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
        return {"loss": "lower", **dict.fromkeys(("accuracy", "precision", "recall", "f1"), "higher")}

    def check_evaluation(self, tokenizers: Tokenizers, examples: EncodedExamples, *, max_length: int) -> None:
        for words, ids, places in _pieces(examples):
            windows(tokenizers["text"], words, ids, places, max_length)

    def evaluate(self, predictor: "Tagger", examples: EncodedExamples) -> dict[str, Any]:
        """Accuracy of words, and precision, recall and F1 of whole entities as seqeval counts them, in percent."""
        predicted = predictor.tag_pieces(_pieces(examples))
        right = [tags.split() for tags in examples.of_row("tags")]
        return {"examples": len(examples)} | span_scores(predicted, right)

    def samples(self, predictor: "Tagger", examples: Sequence[Example]) -> list[str]:
        """Texts and the entities that the model tags in them."""
        texts = [example["text"] for example in examples]
        lines = []
        for text, entities in zip(texts, predictor.entities(texts), strict=True):
            lines += [text, "  -> " + (", ".join(f"{entity.text} ({entity.kind})" for entity in entities) or "nothing")]
        return lines


Pieces = tuple[Sequence[str], Sequence[int], Sequence[int]]
"""The words of a text, its token ids without start and end, and the place of each word's first token."""


def _pieces(examples: EncodedExamples) -> list[Pieces]:
    """The words of examples and their tokens, from the table."""
    pieces: list[Pieces] = []
    rows = zip(*map(examples.column, ("tokens", "tags", "rest")), strict=True)
    for text, (tokens, tags, rest) in zip(examples.of_row("text"), rows, strict=True):
        ids, marks = np.concatenate([np.stack([tokens, tags], axis=1)[1:-1], rest]).T
        pieces.append((text.split(), ids.tolist(), np.flatnonzero(marks).tolist()))
    return pieces


class Entity(NamedTuple):
    """A named part of a text."""

    kind: str
    """Such as person: the tag without B-, I- and the like."""
    text: str
    start: int
    """The characters of the text before it."""
    end: int
    """The characters of the text before its end."""


@dataclass(eq=False, repr=False)
class Tagger(Predictor):
    """Tags words."""

    tags: Labels

    def tag(self, texts: Sequence[str]) -> list[list[str]]:
        """The tag of every word of every text, words being separated by white space.

        A text of more than `max_length` tokens is read in windows. Raises ValueError for a word that is too long.
        """
        words = [text.split() for text in listed(texts)]
        return self.tag_pieces([(of_text, *first_pieces(self.tokenizer, of_text)) for of_text in words])

    def tag_pieces(self, pieces: Sequence[Pieces]) -> list[list[str]]:
        """The tags of texts that are tokenised already."""
        tags: list[list[str]] = [[] for _ in pieces]
        rows: list[tuple[int, list[int], list[int]]] = []
        for owner, of_text in enumerate(pieces):
            try:
                rows += [(owner, *window) for window in windows(self.tokenizer, *of_text, self.max_length)]
            except ValueError as error:
                raise ValueError(f"line {owner + 1} has {error}") from error
        best = self.for_each(_most_probable_tags, [ids for _, ids, _ in rows])
        for (owner, _, places), row in zip(rows, best, strict=True):
            tags[owner] += [self.tags.names[row[place]] for place in places]
        return tags

    def entities(self, texts: Sequence[str]) -> list[list[Entity]]:
        """The entities of every text: the `spans` of its tags, as they are scored."""
        entities = []
        for text, tags in zip(texts, self.tag(texts), strict=True):
            words = [match.span() for match in re.finditer(r"\S+", text)]
            places = [(kind, words[first][0], words[end - 1][1]) for kind, first, end in spans(tags)]
            entities.append([Entity(kind, text[start:end], start, end) for kind, start, end in places])
        return entities

    def predict(self, lines: Sequence[str]) -> list[str]:
        """The tags of every line, with spaces between them."""
        return [" ".join(tags) for tags in self.tag(lines)]


def windows(
    tokenizer: Tokenizer, words: Sequence[str], ids: Sequence[int], places: Sequence[int], max_length: int
) -> list[tuple[list[int], list[int]]]:
    """Splits words into rows of a start token, the words' tokens and an end token, with the place of each word's first.

    Raises ValueError for a word that is too long for a row.
    """
    rows: list[tuple[list[int], list[int]]] = []
    for word, start, end in zip(words, places, [*places, len(ids)][1:], strict=True):
        if end - start > max_length - 2:
            raise ValueError(f"a word of more than {max_length - 2} tokens: {word[:40]!r}; raise data.max_length")
        if not rows or len(rows[-1][0]) + end - start >= max_length:
            rows.append(([tokenizer.bos_id], []))
        rows[-1][1].append(len(rows[-1][0]))
        rows[-1][0].extend(ids[start:end])
    return [([*tokens, tokenizer.eos_id], places) for tokens, places in rows]


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
    entities: list[tuple[str, int, int]] = []
    open_kind = None
    for place, tag in enumerate(tags):
        letter, _, kind = tag.partition("-") if tag[1:2] in ("", "-") and tag[:1] in "BIMELSU" else ("I", "", tag)
        if tag == "O":
            open_kind = None
            continue
        if letter in "IMEL" and kind == open_kind:
            entities[-1] = (kind, entities[-1][1], place + 1)
        else:
            entities.append((kind, place, place + 1))
        open_kind = kind if letter in "BIM" else None
    return entities


def span_scores(predicted: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """Accuracy of tags, and precision, recall and F1 of the `spans` of whole entities, in percent."""
    counts = Counter[str]()
    for one, other in zip(predicted, right, strict=True):
        counts["equal tags"] += sum(map(str.__eq__, one, other))
        counts["tags"] += len(other)
        ours, theirs = set(spans(one)), set(spans(other))
        counts.update({"equal": len(ours & theirs), "predicted": len(ours), "right": len(theirs)})
    parts = {"accuracy": ("equal tags", "tags"), "precision": ("equal", "predicted"), "recall": ("equal", "right")}
    scores = {name: 100 * counts[part] / max(counts[whole], 1) for name, (part, whole) in parts.items()}
    return scores | {"f1": 200 * counts["equal"] / max(counts["predicted"] + counts["right"], 1)}


@jax.jit
def _most_probable_tags(model: EncoderOnly, tokens: Array, lengths: Array) -> Array:
    return jnp.argmax(model(tokens, lengths=lengths), axis=-1)
