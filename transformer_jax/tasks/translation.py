"""Translation: a source text to a target text, by an encoder-decoder model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import jax.numpy as jnp
from annotated_types import Ge, Lt
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.config import DataConfig
from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.sources import Example
from transformer_jax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from transformer_jax.tasks.losses import cross_entropy
from transformer_jax.tasks.scores import check_scores, text_scores
from transformer_jax.tasks.task import Sums, Task, Tokenizers
from transformer_jax.tasks.translator import Decoding, Translator


@dataclass(frozen=True)
class Translation(Task):
    """Learns `target` given `source` (Vaswani et al. 2017, section 5)."""

    features: ClassVar[tuple[str, ...]] = ("source", "target")

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the target probability that is spread over all tokens."""
    decoding: Annotated[Decoding, MAY_CHANGE] = field(default_factory=Decoding)
    """How translations are searched."""
    scores: Annotated[tuple[str, ...], MAY_CHANGE] = ("bleu", "chrf")
    """What evaluation reports of the texts: bleu, compound_split_bleu, chrf, exact_match."""
    bleu_tokenize: str = "13a"
    """sacreBLEU's tokenizer; none for text that is already tokenised."""

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """Source tokens and an end token; a start token, target tokens and an end token."""
        source, target = tokenizers["source"], tokenizers["target"]
        sources, targets = (
            tokenizers[name].encode_batch([example[name] for example in examples]) for name in self.features
        )
        return {
            "source": [[*ids, source.eos_id] for ids in sources],
            "target": [[target.bos_id, *ids, target.eos_id] for ids in targets],
        }

    def resolve(
        self, model: EncoderDecoderConfig, data: DataConfig, vocab_sizes: Mapping[str, int]
    ) -> EncoderDecoderConfig:
        """The model with its vocabulary sizes; ValueError where data, decoding and model contradict each other."""
        if not isinstance(model, EncoderDecoderConfig):
            raise ValueError(f"Translation needs an EncoderDecoderConfig as its model, not {type(model).__name__}")
        if model.share_embeddings and not data.shared_vocabulary:
            raise ValueError("model.share_embeddings needs data.shared_vocabulary; set both or neither")
        reach = model.reach()
        if reach is not None and reach < data.max_length + self.decoding.extra_length:
            raise ValueError(
                f"model.max_length {model.max_length} is below data.max_length {data.max_length} "
                f"plus task.decoding.extra_length {self.decoding.extra_length}; raise it"
            )
        check_scores(self.scores, self.bleu_tokenize)
        for name, size in (("vocab_size", vocab_sizes["target"]), ("source_vocab_size", vocab_sizes["source"])):
            if getattr(model, name) not in (0, size):
                raise ValueError(f"model.{name} follows from the tokenizer; set data.tokenizer.vocab_size instead")
        return replace(model, vocab_size=vocab_sizes["target"], source_vocab_size=vocab_sizes["source"])

    def loss(self, model: EncoderDecoder, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """`loss`, with label smoothing, and `nll`, without; each over the target tokens that are not padding."""
        target, lengths = batch["target"], batch["target_length"]
        # The last column sees itself as its next token; it is past every length and weighs nothing.
        labels = jnp.concatenate([target[:, 1:], target[:, -1:]], axis=1)
        logits = model(batch["source"], target, source_lengths=batch["source_length"], key=key)
        vocab_size = model.embedding.vocab_size
        smoothed, plain = cross_entropy(logits, labels, vocab_size=vocab_size, label_smoothing=self.label_smoothing)
        weights = (jnp.arange(target.shape[1])[None] < lengths[:, None] - 1).astype(jnp.float32)
        tokens = jnp.sum(weights)
        return {"loss": (jnp.sum(smoothed * weights), tokens), "nll": (jnp.sum(plain * weights), tokens)}

    def num_tokens(self, batch: Mapping[str, Any]) -> Array:
        """Target tokens that are predicted."""
        return jnp.sum(jnp.maximum(batch["target_length"] - 1, 0))

    def predictor(self, model: EncoderDecoder, tokenizers: Tokenizers, data: DataConfig) -> Translator:
        """The model with `translate`, `score` and `attention`."""
        return Translator(model, tokenizers["source"], tokenizers["target"], self.decoding, max_length=data.max_length)

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        """The loss, and the scores of texts."""
        return {"loss": "lower", **dict.fromkeys(self.scores, "higher")}

    def check_evaluation(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> None:
        """Encodes the examples, and scores a text by every metric."""
        super().check_evaluation(tokenizers, examples, max_length=max_length)
        text_scores(["a"], ["a"], self.scores, self.bleu_tokenize)

    def evaluate(self, predictor: Translator, examples: Sequence[Example]) -> dict[str, Any]:
        """Loss per target token, without smoothing, and the scores of the translations against the targets.

        Examples that are longer than the model takes are left out and counted as `skipped`.
        """
        kept = [example for example in examples if predictor.takes(example["source"], example["target"])]
        if not kept:
            raise ValueError(
                f"none of {len(examples)} examples is within the {predictor.max_length} tokens of the model "
                "(data.max_length, which a trained run keeps); shorten the lines"
            )
        sources, targets = ([example[feature] for example in kept] for feature in self.features)
        tokens = sum(len(ids) + 1 for ids in predictor.tokenizer.target.encode_batch(targets))
        result: dict[str, Any] = {"examples": len(kept), "loss": -sum(predictor.score(sources, targets)) / tokens}
        if len(kept) < len(examples):
            result["skipped"] = len(examples) - len(kept)
        return result | text_scores(predictor.translate(sources), targets, self.scores, self.bleu_tokenize)
