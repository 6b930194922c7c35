"""Transcription of recordings of any length by windows, as Whisper does it (Radford et al. 2022, section 4.5)."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le, MinLen
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.audio import encode_audio
from transformer_jax.data.config import DataConfig
from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples
from transformer_jax.decoding.constraints import TextRules
from transformer_jax.decoding.growth import growing, rooms
from transformer_jax.decoding.sampling import Sampling, continue_generation, start_generation
from transformer_jax.interop.whisper_texts import NO_TIMES, START, TASKS, NotFirst, Timestamps, segments_of
from transformer_jax.models.config import Encoded
from transformer_jax.models.decoder import DecoderCache
from transformer_jax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from transformer_jax.nn.log_mel import Counts, Features, LogMel, Waveforms
from transformer_jax.parallel.distributed import to_host
from transformer_jax.tasks.audio import AudioReader, Recording, waveforms_of
from transformer_jax.tasks.predictor import decoded, forbidden_tokens
from transformer_jax.tasks.speech_recognition import (
    SoundAttention,
    SpeechRecognition,
    attention_of_words,
    cross_attention,
)
from transformer_jax.tasks.task import Tokenizers

AT_ONCE = 64
"""Recordings whose features are in memory together."""


@dataclass(frozen=True)
class Transcribing(TextRules):
    """How recordings are written down. No text is continued from that of the window before."""

    language: str = ""
    """A language's code, such as en; empty: the most probable one of the first window."""
    languages: tuple[str, ...] = ()
    """The codes of all languages that the model knows; none: one language alone, which it does not name."""
    begin_suppressed: tuple[str, ...] = ()
    """Tokens of the vocabulary with which no text begins."""
    latest_start: Annotated[int, Ge(0)] = 50
    """The latest start of the first segment of a window, in steps of 20 ms."""
    longest: Annotated[int, Ge(8)] = 448
    """Tokens of a window's text with its prompt."""
    temperatures: Annotated[tuple[Annotated[float, Ge(0)], ...], MinLen(1)] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Tried one after the other, as long as a text seems to have failed; 0: always the most probable token."""
    min_log_prob: float = -1.0
    """A text has failed if its tokens are less probable on average, in nats."""
    max_compression: Annotated[float, Ge(0)] = 2.4
    """Or if zlib makes it more than this many times smaller, since it repeats itself."""
    silence: Annotated[float, Ge(0), Le(1)] = 0.6
    """What is improbable is left out if the model thinks with more than this probability that nobody speaks."""
    seed: Annotated[int, Ge(0)] = 0
    """Random seed of temperatures above 0."""


class Segment(NamedTuple):
    """A part of a transcript."""

    start: float
    """Seconds from the recording's start."""
    end: float
    text: str


@dataclass(frozen=True)
class Transcription(SpeechRecognition):
    """Learns the `text` of a recording, `audio`, as Whisper does: a window of sound, behind it silence."""

    window: Annotated[int, Ge(1), Le(2**16)] = 3000
    """Frames that the encoder reads at once; recordings to learn from are no longer."""
    transcribing: Annotated[Transcribing, MAY_CHANGE] = field(default_factory=Transcribing)
    """How recordings of any length are written down; task.decoding and task.target_start are not used."""

    @property
    def prompt_size(self) -> int:
        return 4 if self.transcribing.languages else 2

    def target_tokens(self, tokenizers: Tokenizers, examples: Sequence[Example]) -> list[list[int]]:
        """The tokens of texts, which begin with a space, between those that ask for them and the end."""
        tokenizer, how = tokenizers["text"], self.transcribing
        if how.languages and how.language not in how.languages:
            raise ValueError(f"task.transcribing.language is one of {', '.join(how.languages)} to learn from")
        asked = (how.language, TASKS[0]) if how.languages else ()
        prompt = [tokenizer.token_id(name) for name in (START, *(f"<|{each}|>" for each in asked), NO_TIMES)]
        texts = tokenizer.encode_batch([f" {example['text'].strip()}" for example in examples])
        return [[*prompt, *ids, tokenizer.eos_id] for ids in texts]

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderDecoderConfig:
        if data.max_length > self.window:
            raise ValueError(f"data.max_length is at most task.window {self.window}, not {data.max_length}")
        return super().resolve(model, data, vocab_sizes)

    def longest_written(self, data: DataConfig) -> int:
        return self.transcribing.longest

    def read(self, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> tuple[Features, Counts]:
        audio = batch["audio"][:, : self.window]
        audio = jnp.pad(audio, ((0, 0), (0, self.window - audio.shape[1]), (0, 0)))
        return super().read({**batch, "audio": audio}, key)

    def features_of(self, waveforms: Waveforms, samples: Counts) -> tuple[Features, Counts]:
        """The features of the whole window: the silence behind a recording is read, too."""
        return self.log_mel(waveforms)

    def predictor(self, model: EncoderDecoder, tokenizers: Tokenizers, data: DataConfig) -> "Transcriber":
        """The model with `transcribe` and `segments`."""
        sizes = {"max_length": self.window, "tokens_per_batch": data.tokens_per_batch}
        return Transcriber(model, tokenizers["text"], log_mel=self.log_mel, how=self.transcribing, **sizes)

    def outputs(self, predictor: Any, examples: EncodedExamples) -> list[str]:
        pairs = zip(examples.column("audio"), examples.column("samples"), strict=True)
        return predictor.transcribe([np.reshape(audio, -1)[:count] for audio, count in pairs])


class Window(NamedTuple):
    """From samples to the encoder's vectors, of which those count that are of a recording, not of silence behind it."""

    log_mel: LogMel
    frames: int

    def __call__(self, model: EncoderDecoder, audio: Array, _: Array, samples: Array) -> Encoded:
        audio = jnp.pad(audio, ((0, 0), (0, self.frames - audio.shape[1]), (0, 0)))
        vectors = model.encode(self.log_mel(waveforms_of(audio))[0]).vectors
        whole = self.frames * self.log_mel.hop
        return Encoded(vectors, -(-samples * vectors.shape[1] // whole))


@dataclass(eq=False, repr=False)
class Transcriber(AudioReader):
    """Writes down recordings of any length; a line to predict for is the name of a file."""

    how: Transcribing

    def __post_init__(self) -> None:
        super().__post_init__()
        self.end, self.no_times = self.tokenizer.eos_id, self.tokenizer.token_id(NO_TIMES)
        """Words have smaller numbers than the end token, and times greater ones than that which asks for none."""
        self.windows = max(self.tokens_per_batch // self.max_length, 1)
        """How many are in a batch."""

    @property
    def vectors_of(self) -> Window:
        return Window(self.log_mel, self.max_length)

    def transcribe(self, recordings: Sequence[Recording], **how: Any) -> list[str]:
        """The text of every recording; `how` as in `segments`."""
        return ["".join(segment.text for segment in parts).strip() for parts in self.segments(recordings, **how)]

    predict = transcribe

    def segments(
        self, recordings: Sequence[Recording], *, language: str = "", task: str = TASKS[0], timestamps: bool = False
    ) -> list[list[Segment]]:
        """The segments of every recording; without timestamps one for what is no longer than a window.

        `language` is a code such as en, by default as the run says, `task` transcribe or translate (to English).
        Raises ValueError for what is no recording, and for what the model does not know.
        """
        found: dict[int, list[Segment]] = {}
        for begin in range(0, len(recordings), AT_ONCE):
            some = decoded(recordings[begin:][:AT_ONCE], self._read, "recording", begin + 1)
            read = dict(enumerate(some, begin))
            asked = self.prompts([features for features, _ in read.values()], language or self.how.language, task)
            prompts = dict(zip(read, asked, strict=True))
            for timed in (False, True):
                members = {i: of for i, of in read.items() if (timestamps or of[1] > self.max_length) == timed}
                found |= self._slid(members, prompts, timed=timed)
        return [found[i] for i in range(len(recordings))]

    def attention(self, recording: Recording, target: str | None = None) -> SoundAttention:
        """Where the decoder looks for the words of `target`, by default its own, in a recording's first window."""
        ((features, frames),) = decoded([recording], self._read, "recording")
        window, frames = features[: self.max_length], min(frames, self.max_length)
        prompt = self.prompts([features], self.how.language, TASKS[0])
        written = self.written([window], prompt, timed=False)[0] if target is None else None
        ids = self.tokenizer.encode(f" {target}") if written is None else written
        if not ids or not frames:
            raise ValueError("there is nothing to look at: the recording or its text is empty")
        tokens = np.concatenate([prompt[0], [self.no_times], ids]).astype(np.int32)[None]
        weights = np.asarray(cross_attention(self.model, window[None], tokens))[:, 0, :, prompt.shape[1] : -1]
        vectors = -(-frames * weights.shape[3] // self.max_length)
        starts = [self.tokenizer.decode([token]).startswith(" ") for token in ids]
        return attention_of_words(window[:frames], weights[..., :vectors], self.tokenizer, ids, starts)

    def _slid(
        self, read: Mapping[int, tuple[np.ndarray, int]], prompts: Mapping[int, np.ndarray], *, timed: bool
    ) -> dict[int, list[Segment]]:
        """The segments of recordings by their numbers, window after window, of all recordings at once."""
        found: dict[int, list[Segment]] = {i: [] for i in read}
        at = {i: 0 for i, (_, frames) in read.items() if frames}
        while at:
            windows = [read[i][0][here : here + self.max_length] for i, here in at.items()]
            texts = self.written(windows, np.stack([prompts[i] for i in at]), timed=timed)
            for (i, here), tokens in zip([*at.items()], texts, strict=True):
                parts, ahead = segments_of(tokens, self.no_times + 1, min(read[i][1] - here, self.max_length))
                found[i] += [Segment((here + a) / 100, (here + b) / 100, self._decode(ids)) for a, b, ids in parts]
                at[i] += ahead
            at = {i: here for i, here in at.items() if here < read[i][1]}
        return found

    def _read(self, sound: Path | bytes | np.ndarray) -> tuple[np.ndarray, int]:
        """The features of a recording and a window of silence behind it, and the number of its frames."""
        audio, samples = encode_audio(sound, self.log_mel.sample_rate)
        windows = -(-len(audio) // self.max_length) + 1
        waveform = np.zeros((1, windows * self.max_length * self.log_mel.hop), np.float32)
        waveform[0, : audio.size] = audio.reshape(-1) / 2**15
        return to_host([self.run(_features, waveform, log_mel=self.log_mel)])[0][0], samples // self.log_mel.hop

    def prompts(self, features: list[np.ndarray], language: str, task: str) -> np.ndarray:
        """The tokens in front of every recording's texts, but for the one that asks for no times."""
        known, prompts = self.how.languages, np.full((len(features), 1), self.tokenizer.token_id(START), np.int32)
        if task not in TASKS or (language and language not in known) or (task != TASKS[0] and not known):
            languages = ", ".join(known) or "no others than its own"
            raise ValueError(f"this model does not {task} {language or 'what it hears'}; it knows {languages}")
        if not known or not features:
            return prompts
        codes = tuple(self.tokenizer.token_id(f"<|{code}|>") for code in known)
        first = zip((each[: self.max_length] for each in features), prompts, strict=True)
        chosen = known.index(language) if language else self.for_all(_likeliest, first, self.windows, among=codes)
        columns = (np.array(codes)[chosen], self.tokenizer.token_id(f"<|{task}|>"))
        return np.stack([prompts[:, 0], *(np.broadcast_to(each, len(prompts)) for each in columns)], axis=1)

    def written(self, windows: list[np.ndarray], prompts: np.ndarray, *, timed: bool) -> list[list[int]]:
        """The tokens of every window, without any where nobody speaks, at the first temperature that does not fail."""
        rules = self.how.constraints(self.end)
        rules += (NotFirst(tuple(self.tokenizer.token_id(name) for name in self.how.begin_suppressed)),)
        rules += (Timestamps(self.no_times + 1, self.end, self.how.latest_start),) if timed else ()
        if not timed:
            prompts = np.pad(prompts, ((0, 0), (0, 1)), constant_values=self.no_times)
        forbidden = forbidden_tokens(self.tokenizer, self.how, self.end)
        settings = {"constraints": rules, "end_id": self.end, "forbidden": tuple(sorted({*forbidden, self.no_times}))}
        settings |= {"longest": self.how.longest, "silence": self.no_times - 1, "seed": self.how.seed}
        texts: list[list[int]] = [[] for _ in windows]
        waiting = [*range(len(windows))]
        for temperature in self.how.temperatures:
            sampling = Sampling(temperature=temperature)
            given, failed = ((windows[i], prompts[i]) for i in waiting), []
            outputs = self.for_all(_write, given, self.windows, sampling=sampling, **settings)
            for i, (ids, length, log_prob, silent) in zip(waiting, outputs, strict=True):
                improbable = log_prob / max(length, 1) < self.how.min_log_prob
                texts[i] = [token for token in ids[:length].tolist() if token != self.end]
                if improbable and silent > self.how.silence:
                    texts[i] = []
                elif improbable or self._repeats(texts[i]):
                    failed.append(i)
            waiting = failed
            if not waiting:
                break
        return texts

    def _repeats(self, tokens: list[int]) -> bool:
        text = self._decode(tokens).encode()
        return len(text) > self.how.max_compression * len(zlib.compress(text))

    def _decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode([token for token in tokens if token < self.end])


@partial(jax.jit, static_argnames="log_mel")
def _features(model: EncoderDecoder, waveforms: Array, *, log_mel: LogMel) -> Features:
    return log_mel(waveforms)[0]


@partial(jax.jit, static_argnames="among")
def _likeliest(model: EncoderDecoder, features: Array, prompts: Array, *, among: tuple[int, ...]) -> Array:
    """Which of some tokens is the most probable one behind prompts."""
    logits, _ = model.extend(prompts, model.start_cache(model.encode(features), prompts.shape[1]))
    return jnp.argmax(logits[:, -1, jnp.array(among)], axis=-1)


@partial(jax.jit, static_argnames=("longest", "silence", "sampling", "end_id", "forbidden", "constraints"))
def _write(
    model: EncoderDecoder, features: Array, prompts: Array, *, longest: int, silence: int, seed: Any, **rules: Any
) -> tuple[Array, Array, Array, Array]:
    """Tokens of windows, their number, their log-probability among those that are allowed, and the probability that
    nobody speaks."""
    rows, given = prompts.shape
    memory, capacity = model.encode(features), longest - given

    def start_cache(room: int) -> DecoderCache:
        return model.start_cache(memory, given + room)

    cache, grow = growing(start_cache, capacity)
    logits, cache = model.extend(prompts, cache)
    silent = jax.nn.softmax(logits[:, 0])[:, silence]
    lengths = jnp.full(rows, given)
    # Rows that only fill the batch, whose prompts are zeros, have no text; others draw the same wherever they stand.
    limits = {"max_new_tokens": jnp.where(prompts[:, 0] > 0, capacity, 0), "capacity": capacity, "seed": seed}
    limits |= {"row_ids": jnp.zeros(rows, jnp.int32)}
    state = start_generation(logits[:, -1], cache, prompts, lengths, **limits, **rules)
    for room in rooms(capacity):
        state = replace(state, cache=grow(state.cache, room))
        state = continue_generation(model.extend, state, room - state.position)
    return state.tokens, state.lengths, state.allowed_log_probs, silent
