"""Recognition of speech: a recording to its text, or the text in another language, by an encoder-decoder model."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le
from jaxtyping import Array, Float, PRNGKeyArray

from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.config import DataConfig
from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.data.vocabulary import VocabularyConfig
from transformer_jax.decoding.ensemble import Ensemble
from transformer_jax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from transformer_jax.nn.log_mel import LogMel
from transformer_jax.tasks.audio import AudioReader, AudioTask, Listened, Recording, waveforms_of
from transformer_jax.tasks.losses import ctc_losses
from transformer_jax.tasks.task import Sums, Tokenizers
from transformer_jax.tasks.text_task import TextTask
from transformer_jax.tasks.translation import Decoding, Hypothesis, Searcher


@dataclass(frozen=True)
class SpeechRecognition(AudioTask, TextTask):
    """Learns the `text` of a recording, `audio`."""

    features: ClassVar[tuple[str, ...]] = ("audio", "text")

    decoding: Annotated[Decoding, MAY_CHANGE] = field(default_factory=lambda: Decoding(max_new_tokens=200))
    """How texts are searched."""
    scores: Annotated[tuple[str, ...], MAY_CHANGE] = ("wer", "cer")
    """Scores of an evaluation: wer and cer (in lower case, without punctuation), or those of translations."""
    longest_text: Annotated[int, Ge(3)] = 256
    """Examples with a text of more tokens, special ones included, are skipped and counted."""
    ctc_weight: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share in the loss of a head that reads texts off the encoder (Watanabe et al. 2017, "Hybrid CTC/Attention")."""
    ctc_decoding: Annotated[bool, MAY_CHANGE] = False
    """Texts are the most probable tokens of that head, rather than searched."""

    @property
    def columns(self) -> Columns:
        """The recording, and the tokens of its text."""
        return {**super().columns, "text": Column(longest=self.longest_text)}

    def vocabularies(self, data: DataConfig) -> dict[str, VocabularyConfig]:
        return {"text": data.tokenizer}

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """Samples, and tokens with their special tokens around them."""
        recordings = super().encode(tokenizers, examples, max_length=max_length)
        return {**recordings, "text": self.target_tokens(tokenizers, examples)}

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderDecoderConfig:
        model = self.sized(model, vocab_sizes)
        if self.ctc_decoding and not self.ctc_weight:
            raise ValueError("task.ctc_decoding needs a task.ctc_weight above 0, with which its head was trained")
        reach, needed = model.reach(), max(self.longest_text, self.longest_written(data))
        if reach is not None and reach < needed:
            raise ValueError(
                f"model.max_length {model.max_length} is below {needed} tokens; raise it, or lower task.longest_text "
                "and the limit of what is written"
            )
        return replace(model, input=self.input_of(model, data), ctc=self.ctc_weight > 0)

    def longest_written(self, data: DataConfig) -> int:
        """The most tokens of a text that the model writes, special ones included."""
        return self.decoding.limit(data.max_length) + 2

    def memory(self, model: EncoderDecoder | Ensemble, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Any:
        read_key, model_key = (None, None) if key is None else jax.random.split(key)
        features, frames = self.read(batch, read_key)
        return model.encode(features, source_lengths=frames, key=model_key)

    def loss_given(
        self, model: EncoderDecoder | Ensemble, memory: Any, batch: Mapping[str, Array], key: PRNGKeyArray | None
    ) -> Sums:
        """`loss` and `nll` as of a translation; with CTC also `ctc`, for each token of the text."""
        sums = super().loss_given(model, memory, batch, key)
        if not self.ctc_weight or isinstance(model, Ensemble):
            return sums
        (total, tokens), first, blank = sums["loss"], self.prompt_size, model.embedding.vocab_size
        labels = batch["text"][:, first:], batch["text_length"] - first - 1
        ctc = jnp.sum(ctc_losses(model.ctc_logits(memory), memory.lengths, *labels, blank=blank))
        joint = (1 - self.ctc_weight) * total + self.ctc_weight * ctc
        return {**sums, "loss": (joint, tokens), "ctc": (ctc, tokens)}

    def predictor(
        self, model: EncoderDecoder | Ensemble, tokenizers: Tokenizers, data: DataConfig
    ) -> "SpeechRecognizer":
        """The model with `transcribe` and `search`."""
        sizes: dict[str, Any] = {"max_length": data.max_length, "tokens_per_batch": self.decoding.tokens_per_batch}
        how: dict[str, Any] = {"decoding": self.decoding, "target_start": self.target_start, "ctc": self.ctc_decoding}
        return SpeechRecognizer(model, tokenizers["text"].for_targets, log_mel=self.log_mel, **how, **sizes)

    def outputs(self, predictor: "SpeechRecognizer", examples: EncodedExamples) -> list[str]:
        """The texts of the examples that have a row, `examples.of_rows`."""
        return predictor.texts(examples.column("audio"), examples.column("samples"))


class SoundAttention(NamedTuple):
    """Where a model looks in a recording while it writes."""

    features: Float[np.ndarray, "frames mels"]
    """The recording as the model reads it."""
    words: list[str]
    weights: Float[np.ndarray, "layers heads words vectors"]
    """The cross-attention of what predicts the tokens of each word, on average."""


def attention_of_words(
    features: np.ndarray, weights: np.ndarray, tokenizer: Tokenizer, ids: Sequence[int], starts: Sequence[bool]
) -> SoundAttention:
    """The mean, for each word, of the weights `[layers, heads, tokens, vectors]` of tokens; `starts`: it begins one."""
    cuts = [place for place, start in enumerate(starts) if start and place]
    words = [tokenizer.decode(part).strip() for part in np.split(np.asarray(ids), cuts)]
    return SoundAttention(features, words, np.stack([part.mean(2) for part in np.split(weights, cuts, 2)], axis=2))


@jax.jit
def cross_attention(model: EncoderDecoder, features: Array, tokens: Array) -> Array:
    """The weights `[layers, batch, heads, tokens, vectors]` of tokens in the encoder's vectors."""
    inside: Any = model.decode(tokens, model.encode(features), intermediates=True).intermediates
    return inside.attention["cross_attention"]


class SpeechRecognizer(AudioReader, Searcher):
    """Writes what is said in recordings; a line to predict for is the name of a file."""

    def __init__(
        self, model: EncoderDecoder | Ensemble, tokenizer: Tokenizer, *, log_mel: LogMel, ctc: bool = False, **how: Any
    ):
        if ctc and isinstance(model, Ensemble):
            raise ValueError("an ensemble has no CTC head to read texts off; set task.ctc_decoding to False")
        self.log_mel, self.ctc = log_mel, ctc
        Searcher.__init__(self, model, tokenizer, tokenizer, **how)

    @property
    def vectors_of(self) -> Listened:
        return Listened(self.log_mel, "source_lengths")

    def transcribe(self, recordings: Sequence[Recording]) -> list[str]:
        """The text of every recording; ValueError, with its number, for one that cannot be read or is too long."""
        return self.texts(*self.inputs_of(recordings))

    predict = transcribe

    def search(self, recordings: Sequence[Recording], n_best: int = 1) -> list[list[Hypothesis]]:
        """The `n_best` different texts of every recording, best first, or fewer if the search has no more."""
        return self.searched(range(1, len(recordings) + 1), self.inputs_of(recordings), n_best)

    def attention(self, recording: Recording, target: str | None = None) -> SoundAttention:
        """Where the decoder looks in a recording for the words of `target`, by default its own."""
        ids = self.target.encode(self.transcribe([recording])[0] if target is None else target)
        if not ids:
            raise ValueError("there is nothing to look at: the text is empty")
        (audio,), (samples,) = self.inputs_of([recording])
        features, _ = self.log_mel(waveforms_of(jnp.asarray(audio[None])), jnp.array([samples]))
        tokens = jnp.array([[*self.target_start, *ids]])
        weights = np.asarray(cross_attention(self.model, features, tokens))[:, 0, :, len(self.target_start) - 1 : -1]
        starts = [self.target.starts_word(token) for token in ids]
        return attention_of_words(np.asarray(features[0]), weights, self.target, ids, starts)

    def texts(self, audio: Sequence[np.ndarray], samples: Sequence[Any]) -> list[str]:
        """The texts of recordings as `inputs_of` gives them."""
        if not self.ctc:
            return [best.text for best, *_ in self.searched(range(1, len(audio) + 1), [audio, samples])]
        found, blank = self.for_each(_best_labels, audio, samples, read=self.vectors_of), self.target.vocab_size
        runs = ([label for label, _ in itertools.groupby(labels[:count].tolist())] for labels, count in found)
        return [self.target.decode([label for label in run if label != blank]) for run in runs]


@partial(jax.jit, static_argnames="read")
def _best_labels(model: EncoderDecoder, *arrays: Array, read: Listened) -> tuple[Array, Array]:
    """The most probable token of the CTC head, or none, for every vector of the encoder, and their number."""
    memory = read(model, *arrays)
    return jnp.argmax(model.ctc_logits(memory), axis=-1), jnp.asarray(memory.lengths)
