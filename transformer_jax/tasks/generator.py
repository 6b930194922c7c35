"""A trained decoder-only model as people use it: a prompt in, its continuation out."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Lt, MinLen
from jaxtyping import Array

from transformer_jax.data.chat import Message, render
from transformer_jax.data.fields import check_ranges
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.decoding.beam import BeamResult, BeamSearch, BeamSize, beam_search
from transformer_jax.decoding.growth import growing, room_for, with_slots
from transformer_jax.decoding.sampling import GenerationState, Sampling, continue_generation, cut_at, start_generation
from transformer_jax.models.config import Encoded
from transformer_jax.models.decoder import DecoderCache
from transformer_jax.models.decoder_only import DecoderOnly
from transformer_jax.parallel.distributed import to_host
from transformer_jax.tasks.losses import token_losses
from transformer_jax.tasks.predictor import Predictor, forbidden_tokens, listed
from transformer_jax.tasks.sequences import Tokens, array_width, padded

TURNS = 2**20
"""Added to the number of a prompt's random stream each time that its context is full; more than a call has prompts."""


@dataclass(frozen=True)
class Generation(BeamSearch):
    """How a text is continued."""

    max_new_tokens: Annotated[int, Ge(1), Lt(2**31)] = 256
    """Tokens of a continuation at most. Where a text outgrows data.max_length, sampling goes on from its last half of
    that, and beam search ends."""
    sampling: Sampling = field(default_factory=Sampling)
    """How the next token is chosen."""
    beam_size: BeamSize = 1
    """Above 1: the continuation that beam search finds, and no sampling."""
    stop: tuple[Annotated[str, MinLen(1)], ...] = ()
    """Texts at which a continuation ends; they are left out."""
    end_tokens: tuple[str, ...] = ()
    """Tokens of the vocabulary that end a continuation beside the tokenizer's end token."""
    seed: Annotated[int, Ge(0), Lt(2**31)] = 0
    """Random seed of sampling."""
    chunk: Annotated[int, Ge(1)] = 16
    """Tokens that are generated between two looks at the texts."""
    tokens_per_batch: Annotated[int, Ge(1)] = 8192
    """Tokens of prompts and continuations in one batch."""


class TextGenerator(Predictor):
    """Continues, scores and embeds texts."""

    def __init__(
        self, model: DecoderOnly, tokenizer: Tokenizer, generation: Generation = Generation(), *, max_length: int
    ):
        super().__init__(model, tokenizer, max_length=max_length, tokens_per_batch=generation.tokens_per_batch)
        self.generation = generation
        self.end_ids = (tokenizer.eos_id, *map(tokenizer.token_id, generation.end_tokens))
        """The tokens that end a continuation."""
        self.forbidden = forbidden_tokens(tokenizer, generation, *self.end_ids)

    def generate(self, prompts: Sequence[str], **changes: Any) -> list[str]:
        """The continuation of every prompt; an empty prompt gives a text from its beginning.

        `changes` are other values of `Generation` and `Sampling`, such as `max_new_tokens=20, temperature=0.5`. A
        continuation depends on the seed, its prompt and the prompt's place in the list, not on the other prompts.
        Raises ValueError for a prompt that leaves no room in the context.
        """
        if changes:
            return self.changed(**changes).generate(prompts)
        return self._continuations(self.encoded(prompts))

    predict = generate

    def chat(self, conversations: Sequence[Sequence[Message]], **changes: Any) -> list[str]:
        """What the assistant answers in every conversation, a list of messages `{"role": ..., "content": ...}`.

        They become prompts by the chat template of the published tokenizer; `changes` as in `generate`. Raises
        ValueError for a tokenizer without a template, and for one that cannot be rendered.
        """
        if changes:
            return self.changed(**changes).chat(conversations)
        template, names = self.tokenizer.chat_template()
        texts = render(template, names, conversations)
        encoded = [ids or [self.tokenizer.bos_id] for ids in self.tokenizer.encode_batch(texts)]
        return self._continuations(self.refuse_long(encoded))

    def _continuations(self, encoded: list[list[int]]) -> list[str]:
        """The continuation of every prompt of tokens."""
        continuations = [""] * len(encoded)
        for lines, _, rows in self.groups([*map(len, encoded)], self.generation.max_new_tokens):
            batch = [encoded[line] for line in lines]
            if self.generation.beam_size > 1:
                texts = self._search(batch, rows)
            else:
                *_, texts = self._sample(batch, lines, rows)
            for line, text in zip(lines, texts, strict=False):
                continuations[line] = text
        return continuations

    def stream(self, prompt: str, **changes: Any) -> Iterator[str]:
        """The continuation of one prompt in pieces, as they come; `changes` as in `generate`."""
        if changes:
            yield from self.changed(**changes).stream(prompt)
            return
        if self.generation.beam_size > 1:
            yield self.generate([prompt])[0]  # known only when the search has ended
            return
        shown = ""
        for (text,) in self._sample(self.encoded([prompt]), [0], self.row_multiple):
            yield text.removeprefix(shown)
            shown = text

    def changed(self, **changes: Any) -> "TextGenerator":
        """The same model with other values of `Generation` and `Sampling`; ValueError for invalid ones."""
        generation = self.generation
        try:
            of_sampling = {name: changes.pop(name) for name in list(changes) if hasattr(generation.sampling, name)}
            sampling = replace(changes.pop("sampling", generation.sampling), **of_sampling)
            generation = replace(generation, sampling=sampling, **changes)
        except TypeError as error:
            raise ValueError(f"Generation and Sampling have no such field: {', '.join(changes)}") from error
        check_ranges(generation, "generation")
        return TextGenerator(self.model, self.tokenizer, generation, max_length=self.max_length)

    def losses(self, texts: Sequence[str], *, stride: int = 0) -> list[tuple[float, int]]:
        """Of every text: the sum of its tokens' losses in nats, and the number of tokens, its end token included.

        A text of more than `max_length` tokens is read in windows that move on by `stride` (0: by their length); every
        token is predicted once, in the first window that has it.
        """
        bos_id, eos_id = self.tokenizer.bos_id, self.tokenizer.eos_id
        encoded = self.tokenizer.encode_batch(listed(texts))
        return self.losses_of([[bos_id, *ids, eos_id] for ids in encoded], stride=stride)

    def losses_of(self, encoded: Sequence[Tokens], *, stride: int = 0) -> list[tuple[float, int]]:
        """`losses` of texts whose tokens, the start and the end token included, are known."""
        stride = stride or self.max_length
        rows, owners, seen = [], [], []
        for owner, tokens in enumerate(encoded):
            start, done = 0, 0
            while done < len(tokens) - 1:
                end = min(start + self.max_length, len(tokens) - 1)
                rows.append(tokens[start : end + 1])
                owners.append(owner)
                seen.append(done - start)
                start, done = start + stride, end
        losses = [(0.0, 0)] * len(encoded)
        for owner, row, known, value in zip(owners, rows, seen, self.for_each(_losses, rows, seen), strict=True):
            total, number = losses[owner]
            losses[owner] = total + float(value), number + len(row) - 1 - known
        return losses

    def score(self, texts: Sequence[str]) -> list[float]:
        """The log-probability, in nats, of every text with its end token; see `losses` for long texts."""
        return [-loss for loss, _ in self.losses(texts)]

    @staticmethod
    def vectors_of(model: DecoderOnly, tokens: Array, lengths: Array) -> Encoded:
        """The output of the stack; right-padded tokens see nothing of the padding."""
        return model.decode(tokens)._replace(lengths=lengths)

    def encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """A start token, where the tokenizer has texts begin so or a text has no other, and the tokens of every text.

        Raises ValueError for a text that leaves no room in the context.
        """
        start, encoded = [self.tokenizer.bos_id], self.tokenizer.encode_batch(listed(texts))
        return self.refuse_long([[*start, *ids] if self.tokenizer.starts or not ids else ids for ids in encoded])

    def _limits(self, lengths: np.ndarray, written: Sequence[Sequence[int]]) -> np.ndarray:
        """The tokens that every row may get before its context is full: none in a row without a prompt."""
        left = np.zeros_like(lengths)
        left[: len(written)] = [self.generation.max_new_tokens - len(ids) for ids in written]
        room = self.max_length + 1 - lengths  # the last token is only predicted
        return np.where(lengths > 0, np.minimum(room, left), 0).astype(np.int32)

    def _bounds(self) -> dict[str, Any]:
        """The room for a continuation, its rules, and the tokens that it never has."""
        capacity = min(self.generation.max_new_tokens, self.max_length)
        constraints = self.generation.constraints(*self.end_ids)
        return {"capacity": capacity, "forbidden": self.forbidden, "constraints": constraints}

    def _sample(self, prompts: list[list[int]], lines: list[int], rows: int) -> Iterator[list[str]]:
        """The texts of all prompts, longer each time."""
        generation, half, bounds = self.generation, max(self.max_length // 2, 1), self._bounds()
        contexts, written = prompts, [[] for _ in prompts]
        texts, done = [""] * len(prompts), np.zeros(rows, bool)
        done[len(prompts) :] = True
        seen = None
        for turn in itertools.count():
            given = [[] if over else context for context, over in zip(contexts, done, strict=False)]
            tokens, lengths = padded(given, rows, array_width(max(map(len, given))), left=True)
            read = 0  # generated tokens that the cache holds
            room = room_for(generation.chunk, bounds["capacity"])
            state = self.run(
                _start,
                tokens,
                lengths,
                # Another number in every turn, so that none draws again what one before has drawn.
                (np.array([*lines, *[0] * (rows - len(lines))]) + turn * TURNS).astype(np.uint32).view(np.int32),
                self._limits(lengths, written),
                np.int32(generation.seed),
                seen,
                np.array([*map(len, written), *[0] * (rows - len(written))], np.int32),
                sampling=generation.sampling,
                end_id=self.end_ids,
                room=room,
                **bounds,
            )
            while True:
                shown, lengths, alive = to_host((state.tokens, state.lengths, state.alive))
                new = [ids[:length].tolist() for ids, length in zip(shown, lengths.tolist(), strict=True)]
                for i in np.flatnonzero(~done):
                    ids = written[i] + new[i]
                    over = ids[-1:] and ids[-1] in self.end_ids
                    ended = over or len(ids) >= generation.max_new_tokens
                    text = self.tokenizer.decode(ids[:-1] if over else ids)
                    text, stopped = cut_at(text, generation.stop, more=not ended)
                    done[i] = ended or stopped
                    # The end may be the first bytes of a character.
                    texts[i] = text if done[i] else text.removesuffix("\ufffd")
                yield list(texts)
                if not (alive & ~done).any():
                    break
                read += generation.chunk
                needed = room_for(read, bounds["capacity"])
                if needed > room:
                    room, state = needed, self.run(_grow, state, slots=tokens.shape[1] + needed)
                state = self.run(_continue, state, done, np.int32(generation.chunk))
            if done.all():
                return
            seen = state.seen
            written = [before + more for before, more in zip(written, new, strict=False)]
            contexts = [(context + more)[-half:] for context, more in zip(contexts, new, strict=False)]

    def _search(self, prompts: list[list[int]], rows: int) -> list[str]:
        """The best continuations that beam search finds within the context."""
        generation = self.generation
        tokens, lengths = padded(prompts, rows, array_width(max(map(len, prompts))), left=True)
        result = self.run(
            _beam,
            tokens,
            lengths,
            self._limits(lengths, [[]] * len(prompts)),
            **generation.settings(),
            end_id=self.end_ids,
            cut=True,
            **self._bounds(),
        )
        tokens, ends = to_host((result.tokens, result.lengths))
        found = [ids[:end].tolist() for ids, end in zip(tokens[:, 0], ends[:, 0], strict=True)]
        decoded = [self.tokenizer.decode(ids[:-1] if ids[-1:] and ids[-1] in self.end_ids else ids) for ids in found]
        return [cut_at(text, generation.stop)[0] for text in decoded]


@partial(jax.jit, static_argnames=("room", "capacity", "sampling", "end_id", "forbidden", "constraints"))
def _start(
    model, tokens, lengths, row_ids, max_new_tokens, seed, seen, written, *, room: int, **settings: Any
) -> GenerationState:
    cache = model.start_cache(tokens.shape[0], tokens.shape[1] + room)
    logits, cache = model.prefill(tokens, lengths, cache)
    arrays = {"seed": seed, "row_ids": row_ids, "max_new_tokens": max_new_tokens, "seen": seen, "written": written}
    return start_generation(logits, cache, tokens, lengths, **arrays, **settings)


@partial(jax.jit, static_argnames="slots")
def _grow(model: DecoderOnly, state: GenerationState, *, slots: int) -> GenerationState:
    return replace(state, cache=with_slots(partial(model.start_cache, len(state.last)), state.cache, slots))


@partial(jax.jit, donate_argnums=1)
def _continue(model: DecoderOnly, state: GenerationState, done: Array, steps: Array) -> GenerationState:
    return continue_generation(model.extend, replace(state, alive=state.alive & ~done), steps)


RULES = ("beam_size", "alpha", "length_rule", "stopping", "cut", "groups", "diversity")
SEARCH = (*RULES, "capacity", "end_id", "forbidden", "constraints")


@partial(jax.jit, static_argnames=SEARCH)
def _beam(model: DecoderOnly, tokens: Array, lengths: Array, max_new_tokens: Array, **settings: Any) -> BeamResult:
    rows, width = tokens.shape

    def start_cache(room: int) -> DecoderCache:
        return model.start_cache(rows, width + room)

    cache, settings["grow"] = growing(start_cache, settings["capacity"])
    if width > 1:
        _, cache = model.prefill(tokens[:, :-1], jnp.maximum(lengths - 1, 0), cache)
    arrays = {"max_new_tokens": max_new_tokens, "before": (tokens, lengths)}
    return beam_search(model.extend, DecoderCache.take, cache, tokens[:, -1:], **arrays, **settings)


@jax.jit
def _losses(model: DecoderOnly, tokens: Array, lengths: Array, first: Array) -> Array:
    """Summed losses `[rows]` of the predictions from `first` on of right-padded rows."""
    vectors, labels = model.decode(tokens[:, :-1]).vectors, tokens[:, 1:]
    losses = token_losses(model.make_logits(), vectors, labels, vocab_size=model.embedding.vocab_size)
    places = jnp.arange(tokens.shape[1] - 1)[None]
    counted = (first[:, None] <= places) & (places < lengths[:, None] - 1)
    return jnp.sum(jnp.where(counted, losses, 0), axis=1)
