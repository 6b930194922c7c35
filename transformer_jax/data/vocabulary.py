"""The tokenizers of a run: one for all features, or one for each."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformer_jax.data.config import DataConfig
from transformer_jax.data.dataset import readable
from transformer_jax.data.tokenizers import Tokenizer

SHARED = "shared"


def train_tokenizers(config: DataConfig, features: Sequence[str]) -> dict[str, Tokenizer]:
    """The tokenizer of every feature, trained on the train split (or loaded, where the configuration says so)."""

    def texts(of: Sequence[str]) -> Iterator[str]:
        for example in readable(config.source.examples("train"), features, Counter()):
            yield from (example[feature] for feature in of)

    if config.shared_vocabulary:
        return dict.fromkeys(features, config.tokenizer.train(texts(features)))
    return {feature: config.tokenizer.train(texts([feature])) for feature in features}


def save_tokenizers(tokenizers: dict[str, Tokenizer], directory: Path, *, shared: bool) -> None:
    """Writes every tokenizer once."""
    directory.mkdir(parents=True, exist_ok=True)
    for feature, tokenizer in tokenizers.items():
        tokenizer.save(directory, SHARED if shared else feature)


def load_tokenizers(config: DataConfig, features: Sequence[str], directory: Path) -> dict[str, Tokenizer]:
    """What `save_tokenizers` wrote."""
    if config.shared_vocabulary:
        return dict.fromkeys(features, config.tokenizer.load(directory, SHARED))
    return {feature: config.tokenizer.load(directory, feature) for feature in features}
