"""Causal language modelling: the next token of running text, by a decoder-only model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import jax.numpy as jnp
from annotated_types import Ge
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.config import DataConfig
from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples
from transformer_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from transformer_jax.tasks.generator import Generation, TextGenerator
from transformer_jax.tasks.losses import token_losses
from transformer_jax.tasks.task import RunningText, Sums, Tokenizers, resolved


@dataclass(frozen=True)
class LanguageModelling(RunningText):
    """Learns `text`, documents packed end to end in rows of `data.max_length` tokens (Radford et al. 2018)."""

    generation: Annotated[Generation, MAY_CHANGE] = field(default_factory=Generation)
    """How texts are continued."""
    stride: Annotated[int, Ge(0)] = 0
    """Evaluation moves windows of data.max_length on by so many tokens; 0: by their length, so that none overlap."""
    z_loss: Annotated[float, Ge(0)] = 0.0
    """Weight of the squared log-normaliser in the loss of training, such as 1e-4; evaluation leaves it out."""
    loss_chunk: Annotated[int, Ge(0)] | None = None
    """Logits of so many positions of a row exist at once; 0: of all; None: of 64 if there are 16,384 tokens or more."""

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> DecoderOnlyConfig:
        if self.stride > data.max_length:
            raise ValueError(f"task.stride {self.stride} is more than data.max_length {data.max_length}; lower it")
        return resolved(self, model, DecoderOnlyConfig, data, vocab_sizes["text"])

    def loss(self, model: DecoderOnly, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """`loss`: of every token given those before it in its document and its row."""
        tokens, segments, positions = batch["tokens"], batch["segments"], batch["positions"][:, :-1]
        vectors = model.decode(tokens[:, :-1], segments=segments[:, :-1], positions=positions, key=key).vectors
        labels, vocab_size = tokens[:, 1:], model.embedding.vocab_size
        logits, chunk, z_loss = model.make_logits(), self.loss_chunk, 0.0 if key is None else self.z_loss
        losses = token_losses(logits, vectors, labels, vocab_size=vocab_size, chunk=chunk, z_loss=z_loss)
        weights = (segments[:, 1:] == segments[:, :-1]).astype(jnp.float32)
        return {"loss": (jnp.sum(losses * weights), jnp.sum(weights))}

    def num_tokens(self, batch: Mapping[str, Any]) -> Array:
        """The tokens that are predicted: all of a row but the first, which is only read."""
        return jnp.asarray(batch["tokens"][:, 1:].size)

    def predictor(self, model: DecoderOnly, tokenizers: Tokenizers, data: DataConfig) -> TextGenerator:
        """The model with `generate`, `stream`, `score` and `embed`."""
        return TextGenerator(model, tokenizers["text"], self.generation, max_length=data.max_length)

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        return {"loss": "lower", "perplexity": "lower", "bits_per_byte": "lower"}

    def loss_metrics(self, sums: Mapping[str, tuple[float, float]], examples: Sequence[Example]) -> dict[str, Any]:
        """Loss and perplexity of a token, and bits for a byte of text, which vocabularies do not change.

        Documents end in an end token, which is predicted too. Those longer than data.max_length are read in windows.
        """
        total, tokens = sums["loss"]
        return {
            "tokens": int(tokens),
            "loss": total / tokens,
            "perplexity": math.exp(min(total / tokens, 700)),
            "bits_per_byte": total / math.log(2) / sum(len(example["text"].encode()) for example in examples),
        }

    def evaluate(self, predictor: TextGenerator, examples: EncodedExamples) -> dict[str, Any]:
        """The metrics of `loss_metrics` with windows that overlap, if there is a `stride`."""
        if not self.stride:
            return {"examples": len(examples)}
        losses = predictor.losses_of(examples.column("tokens"), stride=self.stride)
        total, tokens = (sum(column) for column in zip(*losses, strict=True))
        return {"examples": len(examples)} | self.loss_metrics({"loss": (total, float(tokens))}, examples)

    def samples(self, predictor: TextGenerator, examples: Sequence[Example]) -> list[str]:
        return predictor.generate([""])[0].splitlines()
