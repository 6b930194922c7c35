"""Tasks whose answer is a text: its loss, and its scores against one right answer or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from annotated_types import Ge, Lt
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.decoding.ensemble import Ensemble
from transformer_jax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from transformer_jax.nn.named import choose
from transformer_jax.tasks.losses import cross_entropy
from transformer_jax.tasks.predictor import listed
from transformer_jax.tasks.scores import SCORES, TextScoring, check_scores, text_scores
from transformer_jax.tasks.task import Sums, Task, Tokenizers


@dataclass(frozen=True)
class TextTask(Task):
    """Learns the text that is its last feature, by an encoder-decoder model."""

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the target probability that is spread over all tokens."""
    z_loss: Annotated[float, Ge(0)] = 0.0
    """Weight of the squared log-normaliser in the loss, such as 1e-4; in `loss`, not in `nll`."""
    scores: Annotated[tuple[str, ...], MAY_CHANGE] = ("bleu", "chrf")
    """Scores of an evaluation: bleu, compound_split_bleu, chrf, chrf++, ter, rouge1, rouge2, rougeL, rougeLsum, comet,
    wer, cer, exact_match."""
    bleu_tokenize: str = "13a"
    """sacreBLEU's tokenizer; none for text that is already tokenised."""
    bootstrap: Annotated[int, Ge(0), MAY_CHANGE] = 0
    """Resamples of the examples for the 95 % interval of each score, 1000 as a rule; 0: no intervals."""
    references: Annotated[tuple[str, ...], MAY_CHANGE] = ("references",)
    """What examples with several right targets call the others: a text, or a list that may begin with the target."""

    target_start: str = ""
    """A token of the vocabulary behind the start token of every target, such as the code of its language."""

    @property
    def target(self) -> str:
        """The feature that is the text to write."""
        return self.features[-1]

    @property
    def prompt_size(self) -> int:
        """The number of tokens in front of those of a text to write."""
        return 1 + bool(self.target_start)

    def target_tokens(self, tokenizers: Tokenizers, examples: Sequence[Example]) -> list[list[int]]:
        """The tokens of texts to write, with their special tokens around them."""
        target, texts = tokenizers[self.target].for_targets, [example[self.target] for example in examples]
        return [[target.bos_id, *ids] for ids in tokens_of(target, texts, self.target_start)]

    @property
    def resampled(self) -> Mapping[str, tuple[int, int]]:
        return {self.target: (self.prompt_size, 1)}

    def sized(self, model: Any, vocab_sizes: Mapping[str, int], **sizes: int) -> EncoderDecoderConfig:
        """The model's configuration with the sizes of its vocabularies; ValueError for another kind of model."""
        if not isinstance(model, EncoderDecoderConfig):
            name = type(self).__name__
            raise ValueError(f"{name} needs an EncoderDecoderConfig as its model, not {type(model).__name__}")
        check_scores(self.scores, self.bleu_tokenize)
        sizes = {"vocab_size": vocab_sizes[self.target], **sizes}
        for name, size in sizes.items():
            if getattr(model, name) not in (0, size):
                raise ValueError(f"model.{name} follows from the tokenizer; set data.tokenizer.vocab_size instead")
        return replace(model, **sizes)

    def memory(self, model: EncoderDecoder | Ensemble, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Any:
        """The encoder's vectors of a batch, of an ensemble those of every member."""
        first = self.features[0]
        return model.encode(batch[first], source_lengths=batch[f"{first}_length"], key=key)

    def loss(self, model: EncoderDecoder | Ensemble, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """`loss`, with label smoothing, and `nll`, without; each over the target tokens that are not padding."""
        encoder_key, decoder_key = (None, None) if key is None else jax.random.split(key)
        return self.loss_given(model, self.memory(model, batch, encoder_key), batch, decoder_key)

    def loss_given(
        self, model: EncoderDecoder | Ensemble, memory: Any, batch: Mapping[str, Array], key: PRNGKeyArray | None
    ) -> Sums:
        """The same, from the encoder's vectors."""
        target, lengths = batch[self.target], batch[f"{self.target}_length"]
        # The last column sees itself as its next token; it is past every length and weighs nothing.
        labels = jnp.concatenate([target[:, 1:], target[:, -1:]], axis=1)
        logits = model.predict(target, memory, key=key)
        settings = {"label_smoothing": self.label_smoothing, "z_loss": self.z_loss}
        smoothed, plain = cross_entropy(logits, labels, vocab_size=model.embedding.vocab_size, **settings)
        weights = (jnp.arange(target.shape[1])[None] < lengths[:, None] - 1).astype(jnp.float32)
        tokens = jnp.sum(weights)
        return {"loss": (jnp.sum(smoothed * weights), tokens), "nll": (jnp.sum(plain * weights), tokens)}

    def num_tokens(self, batch: Mapping[str, Any]) -> Array:
        """Target tokens that are predicted."""
        return jnp.sum(jnp.maximum(batch[f"{self.target}_length"] - 1, 0))

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        return {"loss": "lower", **{name: choose("score", name, SCORES).better for name in self.scores}}

    def check_evaluation(self, tokenizers: Tokenizers, examples: EncodedExamples, *, max_length: int) -> None:
        list(map(self.right, examples))
        text_scores(["a"], ["a"], self.scores, self.scoring([dict.fromkeys(self.features, "a")]))

    def evaluate(self, predictor: Any, examples: EncodedExamples) -> dict[str, Any]:
        """The scores of the texts; examples that are longer than the model takes are counted as `skipped`."""
        texts = self.outputs(predictor, examples)
        skipped = len(examples) - len(texts)
        counts = {"examples": len(texts)} | ({"skipped": skipped} if skipped else {})
        return counts | self.scores_of(texts, [examples[index] for index in examples.of_rows])

    def outputs(self, predictor: Any, examples: EncodedExamples) -> list[str]:
        """The texts that are predicted for the examples that have a row, `examples.of_rows`."""
        raise NotImplementedError

    def scores_of(self, texts: Sequence[str], examples: Sequence[Example]) -> dict[str, Any]:
        """The scores of one text for every example."""
        right = list(map(self.right, examples))
        return text_scores(texts, right, self.scores, self.scoring(examples), bootstrap=self.bootstrap)

    def scoring(self, examples: Sequence[Example]) -> TextScoring:
        """What scores depend on, beside the texts."""
        return TextScoring(self.bleu_tokenize)

    def right(self, example: Example) -> list[str]:
        """The right targets of an example; ValueError for what is neither text nor a list of texts."""
        targets = [example[self.target]]
        for name in self.references:
            more = example.get(name) or []
            several = [more] if isinstance(more, str) else more
            if not isinstance(several, list) or not all(isinstance(text, str) for text in several):
                raise ValueError(f"task.references: {name!r} of an example is neither text nor a list of texts: {more}")
            targets = several if several is more and several[:1] == targets else [*targets, *several]
        return [text for text in targets if text.strip()] or targets[:1]


def tokens_of(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    start: str = "",
    end: str = "",
    *,
    eos: bool = True,
    prefix: str = "",
    longest: int | None = None,
) -> list[list[int]]:
    """The tokens of texts and the end token, between those of the names `start` and `end`.

    Each text begins with `prefix`, and loses its end where there would be more tokens than `longest`.
    """
    first, last = named_tokens(tokenizer, start), [tokenizer.eos_id] * eos + named_tokens(tokenizer, end)
    room = None if longest is None else max(longest - len(first) - len(last), 0)
    encoded = tokenizer.encode_batch([f"{prefix}{text}" for text in listed(texts)])
    return [[*first, *ids[:room], *last] for ids in encoded]


def named_tokens(tokenizer: Tokenizer, name: str) -> list[int]:
    """The token of this name, or none without a name."""
    return [tokenizer.token_id(name)] if name else []
