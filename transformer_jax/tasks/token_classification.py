"""A tag for every word, such as those of named entities, by an encoder-only model (Devlin et al. 2019, section 5.3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.config import DataConfig
from transformer_jax.data.labels import Labels
from transformer_jax.data.sources import Example
from transformer_jax.data.vocabulary import VocabularyConfig
from transformer_jax.models.encoder_only import EncoderOnly, EncoderOnlyConfig
from transformer_jax.tasks.losses import label_sums
from transformer_jax.tasks.tagger import Tagger, first_pieces, span_scores
from transformer_jax.tasks.task import Sums, Task, Tokenizers, resolved


@dataclass(frozen=True)
class TokenClassification(Task):
    """Learns the `tags` of the words of a `text`, as many as it has between white space, such as those of entities."""

    features: ClassVar[tuple[str, ...]] = ("text", "tags")

    @property
    def columns(self) -> Columns:
        """The tokens and, for each, the tag's number plus 1 where it is the first of a word, and 0 elsewhere."""
        return {"tokens": Column(), "tags": Column()}

    def vocabularies(self, data: DataConfig) -> dict[str, VocabularyConfig]:
        """That of the text, and the tags."""
        return {"text": data.tokenizer, "tags": Labels(many=True)}

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """A start token, the text and an end token, cut off at `max_length`.

        Raises ValueError for an example that has not as many tags as words.
        """
        tokenizer, columns = tokenizers["text"], {name: [] for name in self.columns}
        for example in examples:
            words, tags = example["text"].split(), tokenizers["tags"].ids(example["tags"])
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

    def predictor(self, model: EncoderOnly, tokenizers: Tokenizers, data: DataConfig) -> Tagger:
        """The model with `tag` and `entities`."""
        return Tagger(model, tokenizers["text"], tokenizers["tags"], max_length=data.max_length)

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        """Of words and of whole entities."""
        return dict.fromkeys(("accuracy", "precision", "recall", "f1"), "higher")

    def check_evaluation(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> None:
        """Encodes the examples; ValueError for a word that fits in no row, ImportError where seqeval is missing."""
        import seqeval.metrics

        super().check_evaluation(tokenizers, examples, max_length=max_length)
        seqeval.metrics.accuracy_score([["O"]], [["O"]])
        most = max_length - 2
        for words in (example["text"].split() for example in examples):
            ids, places = first_pieces(tokenizers["text"], words)
            for word, start, end in zip(words, places, [*places[1:], len(ids)], strict=True):
                if end - start > most:
                    raise ValueError(f"a word has more than {most} tokens: {word[:40]!r}; raise data.max_length")

    def evaluate(self, predictor: Tagger, examples: Sequence[Example]) -> dict[str, Any]:
        """Accuracy of words, and precision, recall and F1 of whole entities as seqeval counts them, in percent."""
        found = predictor.tag([example["text"] for example in examples])
        return {"examples": len(examples)} | span_scores(found, [example["tags"].split() for example in examples])

    def samples(self, predictor: Tagger, examples: Sequence[Example]) -> list[str]:
        """Texts and the entities that are found in them."""
        texts = [example["text"] for example in examples]
        lines = []
        for text, entities in zip(texts, predictor.entities(texts), strict=True):
            lines += [text, "  -> " + (", ".join(f"{entity.text} ({entity.kind})" for entity in entities) or "nothing")]
        return lines
