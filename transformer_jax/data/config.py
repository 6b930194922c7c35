"""The text of a run, its vocabulary and its batches."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Le, Lt

from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.sources import Source
from transformer_jax.data.tokenizers import SentencePiece, TokenizerConfig


@dataclass(frozen=True)
class DataConfig:
    """Where examples come from, how they become tokens, and how tokens become batches."""

    source: Source
    """Where examples come from: Dates, Files, Tfds or a class of your own."""
    tokenizer: TokenizerConfig = field(default_factory=SentencePiece)
    """How text becomes tokens: SentencePiece, WordPiece (BERT), ByteBPE (GPT-2) or Bytes."""
    shared_vocabulary: bool = True
    """One vocabulary for all features, or one for each."""
    subword_sampling: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Training texts are cut into other tokens in every epoch: the probability that a merge is dropped (SentencePiece
    of the type bpe), or the exponent of a cut's probability (unigram), lower for more variety; 0: as in evaluation."""
    sampling_room: Annotated[float, Ge(1)] = 1.5
    """Arrays are longer by this factor with `subword_sampling`; texts that still do not fit stay as they are."""
    max_length: Annotated[int, Ge(1)] = 256
    """Examples with a longer side (in tokens, special ones included) are skipped and counted."""
    tokens_per_batch: Annotated[int, Ge(1), Le(2**27)] = 4096
    """Rows times padded length of a batch, on its longest side, is at most this."""
    num_buckets: Annotated[int, Ge(1)] = 8
    """Most batch shapes that differ, each of which is compiled."""
    batch_multiple: Annotated[int, Ge(1), Le(2**20)] = 8
    """Every batch has a multiple of this many rows; the mesh and train.accumulate must divide it."""
    cache: Annotated[str, MAY_CHANGE] = ""
    """Directory of the tokenised text, to share between runs; empty: `cache` in the run directory."""
