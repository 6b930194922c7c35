"""Constraints on generated texts: the tokens that may come next, in beam search and in sampling."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Lt
from jaxtyping import Array, Bool, Float, Int

State = Any
"""What a constraint knows of every row: a pytree of arrays `[rows, ...]`, which follow the rows of a beam."""


@runtime_checkable
class Constraint(Protocol):
    """Rules tokens out. Passed to compiled functions, so hashable and static, or a pytree of arrays."""

    def start(
        self, prompt: Int[Array, "rows length"], lengths: Int[Array, " rows"], capacity: int, written: Any = 0
    ) -> State:
        """The state behind prompts, which stand at the right end of `prompt`; `capacity` tokens may follow.

        So many tokens as `written` (of each row, or of all) belong to the continuation already.
        """
        ...

    def allow(self, logits: Float[Array, "rows vocab"], state: State) -> Float[Array, "rows vocab"]:
        """The logits of the next token, -inf where a token is ruled out."""
        ...

    def advance(self, state: State, tokens: Int[Array, " rows"]) -> State:
        """The state behind one token more."""
        ...


class Texts(NamedTuple):
    """The tokens of every row so far."""

    tokens: Int[Array, "rows capacity"]
    """Prompt and continuation, from the left."""
    lengths: Int[Array, " rows"]
    """How many there are."""
    prompts: Int[Array, " rows"]
    """How many of them are the prompt's; negative where a part of the continuation is not there any more."""


@dataclass(frozen=True)
class TextRules:
    """What every generated text keeps to."""

    min_length: Annotated[int, Ge(0), Lt(2**31)] = 0
    """Tokens that a text has at least before its end token, unless its limit comes first."""
    no_repeat_ngram: Annotated[int, Ge(0), Lt(2**31)] = 0
    """So many tokens in a row come once only in prompt and text, as far as these are in the context (Paulus et al.
    2018, section 2.5); 0: no such rule."""

    suppressed: tuple[str, ...] = ()
    """Tokens of the vocabulary that no text has."""

    def constraints(self, *end_ids: int) -> "tuple[KeepRules, ...]":
        """What beam search and sampling are given, nothing where the rules ask for nothing."""
        return (
            (KeepRules(self.min_length, self.no_repeat_ngram, end_ids),)
            if self.min_length or self.no_repeat_ngram
            else ()
        )


@dataclass(frozen=True)
class KeepRules:
    """The constraint of `TextRules`."""

    min_length: int
    no_repeat_ngram: int
    end_ids: tuple[int, ...]

    def start(
        self, prompt: Int[Array, "rows length"], lengths: Int[Array, " rows"], capacity: int, written: Any = 0
    ) -> Texts:
        rows, width = prompt.shape
        places = jnp.arange(width)[None] + width - lengths[:, None]
        tokens = jnp.take_along_axis(prompt, jnp.minimum(places, width - 1), axis=1)
        tokens = jnp.concatenate([tokens, jnp.zeros((rows, capacity), tokens.dtype)], axis=1)
        return Texts(tokens, lengths, lengths - written)

    def allow(self, logits: Float[Array, "rows vocab"], state: Texts) -> Float[Array, "rows vocab"]:
        ends = jnp.array(self.end_ids, jnp.int32)
        if self.min_length:
            short = state.lengths - state.prompts < self.min_length
            logits = logits.at[:, ends].set(jnp.where(short[:, None], -jnp.inf, logits[:, ends]))
        before, (rows, width) = self.no_repeat_ngram - 1, state.tokens.shape
        if not 0 <= before < width:
            return logits
        same = jnp.arange(width - before)[None] + before < state.lengths[:, None]
        for place in range(before):
            last = jnp.take_along_axis(state.tokens, state.lengths[:, None] - before + place, axis=1)
            same &= state.tokens[:, place : width - before + place] == last
        repeated = jnp.where(same, state.tokens[:, before:], logits.shape[1])
        return logits.at[jnp.arange(rows)[:, None], repeated].set(-jnp.inf, mode="drop")

    def advance(self, state: Texts, tokens: Int[Array, " rows"]) -> Texts:
        rows = jnp.arange(len(tokens))
        texts = state.tokens.at[rows, state.lengths].set(tokens.astype(state.tokens.dtype), mode="drop")
        return state._replace(tokens=texts, lengths=state.lengths + 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OneOf:
    """Texts of a list alone, for beam search: the prefix tree of their tokens (De Cao et al. 2021, section 3.2).

    The branches of all nodes stand one behind another. Sizes are powers of two, so that lists of about the same size
    share a compiled search.
    """

    first: Int[Array, " nodes"]
    """The first branch of every node; the next node's is the end."""
    tokens: Int[Array, " branches"]
    """The token of every branch."""
    nodes: Int[Array, " branches"]
    """The node that it leads to."""
    widest: int = field(metadata={"static": True})
    """The most branches that a node has, rounded up."""

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> "OneOf":
        """The tree of texts as token ids, their end tokens included; ValueError without one."""
        children: list[dict[int, int]] = [{}]
        for text in texts:
            node = 0
            for token in text:
                if token not in children[node]:
                    children[node][token] = len(children)
                    children.append({})
                node = children[node][token]
        if not children[0]:
            raise ValueError("there is no text to choose from: give one at least")
        counts = np.array([0, *map(len, children)], np.int32)
        branches = np.array([pair for node in children for pair in node.items()], np.int32)
        padded = np.zeros((_rounded(len(branches)), 2), np.int32)
        padded[: len(branches)] = branches
        first = np.full(_rounded(len(counts)), len(branches), np.int32)
        first[: len(counts)] = np.cumsum(counts)
        tokens, nodes = jnp.asarray(padded[:, 0]), jnp.asarray(padded[:, 1])
        return cls(jnp.asarray(first), tokens, nodes, _rounded(int(counts.max())))

    def start(
        self, prompt: Int[Array, "rows length"], lengths: Int[Array, " rows"], capacity: int, written: Any = 0
    ) -> Array:
        return jnp.zeros(len(lengths), jnp.int32)

    def allow(self, logits: Float[Array, "rows vocab"], state: Int[Array, " rows"]) -> Float[Array, "rows vocab"]:
        _, tokens, present = self._branches(state)
        rows = jnp.arange(len(state))[:, None]
        allowed: Bool[Array, "rows vocab"] = jnp.zeros(logits.shape, bool)
        allowed = allowed.at[rows, jnp.where(present, tokens, logits.shape[1])].set(True, mode="drop")
        return jnp.where(allowed, logits, -jnp.inf)

    def advance(self, state: Int[Array, " rows"], tokens: Int[Array, " rows"]) -> Int[Array, " rows"]:
        places, branches, present = self._branches(state)
        following = jnp.max(jnp.where(present & (branches == tokens[:, None]), self.nodes[places], -1), axis=1)
        return jnp.where(following < 0, state, following)

    def _branches(self, state: Int[Array, " rows"]) -> tuple[Array, Array, Array]:
        """The places of every row's branches, their tokens, and which of them are its own: `[rows, widest]` each."""
        places = self.first[state][:, None] + jnp.arange(self.widest)[None]
        present = places < self.first[state + 1][:, None]
        places = jnp.minimum(places, len(self.tokens) - 1)
        return places, self.tokens[places], present


class TreeState(NamedTuple):
    """What is left to write of the tree of every row."""

    leaves: Int[Array, " rows"]
    """Leaves that have not been written."""
    depth: Int[Array, " rows"]
    """Brackets that are open."""
    room: Int[Array, " rows"]
    """Tokens that may follow, the end token included."""
    empty: Bool[Array, " rows"]
    """Whether the last token is an opening bracket."""


@dataclass(frozen=True)
class TreeTokens:
    """The tokens of which texts of brackets are made; called with what is known of rows, it gives their constraint."""

    opening: tuple[int, ...]
    """Brackets with each of the labels."""
    closing: int
    tags: tuple[int, ...]
    """Of which each is the leaf of one word."""
    end: int

    def __call__(self, limits: Int[Array, " rows"], leaves: Int[Array, " rows"]) -> "Trees":
        return Trees(leaves, limits, self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trees:
    """Trees with given numbers of leaves alone: one outermost constituent, none that is empty, and then the end token.

    Three tokens more than it has leaves are the least that a tree takes; where the limit is lower, there is none.
    """

    leaves: Int[Array, " rows"]
    """The leaves of every row's tree."""
    limits: Int[Array, " rows"]
    """The most tokens of every row, the end token included."""
    tokens: TreeTokens = field(metadata={"static": True})

    def start(
        self, prompt: Int[Array, "rows length"], lengths: Int[Array, " rows"], capacity: int, written: Any = 0
    ) -> TreeState:
        nothing = jnp.zeros_like(self.leaves)
        return TreeState(self.leaves, nothing, self.limits - written, nothing > 0)

    def allow(self, logits: Float[Array, "rows vocab"], state: TreeState) -> Float[Array, "rows vocab"]:
        leaves, depth, room, empty = state
        more, inside = leaves > 0, depth > 0
        # A leaf, a closing bracket and the end take the room that is kept for them; an opening one needs two places.
        may = {
            self.tokens.opening: more & (room >= leaves + depth + 3),
            self.tokens.tags: more & inside,
            (self.tokens.closing,): inside & ~empty & ((depth > 1) | ~more),
            (self.tokens.end,): ~more & ~inside,
        }
        allowed = jnp.full_like(logits, -jnp.inf)
        for ids, rows in may.items():
            columns = jnp.array(ids, jnp.int32)
            allowed = allowed.at[:, columns].set(jnp.where(rows[:, None], logits[:, columns], -jnp.inf))
        return allowed

    def advance(self, state: TreeState, tokens: Int[Array, " rows"]) -> TreeState:
        opened = jnp.isin(tokens, jnp.array(self.tokens.opening, jnp.int32))
        depth = state.depth + opened - (tokens == self.tokens.closing)
        leaves = state.leaves - jnp.isin(tokens, jnp.array(self.tokens.tags, jnp.int32))
        return TreeState(leaves, depth, state.room - 1, opened)


def _rounded(size: int) -> int:
    """The next power of two."""
    return 1 << (size - 1).bit_length()
