"""The base of the tasks that learn from running text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.sources import Example
from transformer_jax.tasks.task import Task, Tokenizers


@dataclass(frozen=True)
class RunningText(Task):
    """Learns from documents `text`, packed end to end in rows of `data.max_length` tokens."""

    features: ClassVar[tuple[str, ...]] = ("text",)
    packed: ClassVar[bool] = True

    @property
    def columns(self) -> Columns:
        """The documents."""
        return {"tokens": Column()}

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """A start token, the document, an end token."""
        tokenizer = tokenizers["text"]
        encoded = tokenizer.encode_batch([example["text"] for example in examples])
        return {"tokens": [[tokenizer.bos_id, *ids, tokenizer.eos_id] for ids in encoded]}
