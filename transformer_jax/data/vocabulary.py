"""The vocabularies of a run: a tokenizer for all features of text or one for each, and labels."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from transformer_jax.data.config import DataConfig
from transformer_jax.data.labels import Labels
from transformer_jax.data.sources import Example
from transformer_jax.data.tokenizers import Tokenizer, TokenizerConfig

Vocabulary = Tokenizer | Labels
VocabularyConfig = TokenizerConfig | Labels
Configs = Mapping[str, VocabularyConfig]
"""The kind of vocabulary of every feature that becomes ids."""

SHARED = "shared"
"""The file name of the vocabulary that all features of text share."""


def train_tokenizers(
    data: DataConfig,
    configs: Configs,
    examples: Callable[[], Iterable[Example]],
    known: Mapping[str, Vocabulary] = MappingProxyType({}),
) -> dict[str, Vocabulary]:
    """The vocabulary of every feature of `configs`: the one that is `known`, or one trained on these examples."""
    vocabularies: dict[str, Vocabulary] = {}
    for features in _groups(data, configs).values():
        first, texts = features[0], (example[feature] for example in examples() for feature in features)
        vocabularies |= dict.fromkeys(features, known[first] if first in known else configs[first].train(texts))
    return {feature: vocabularies[feature] for feature in configs}


def save_tokenizers(data: DataConfig, configs: Configs, tokenizers: Mapping[str, Vocabulary], directory: Path) -> None:
    """Writes every vocabulary once."""
    for name, features in _groups(data, configs).items():
        tokenizers[features[0]].save(directory, name)


def load_tokenizers(data: DataConfig, configs: Configs, directory: Path) -> dict[str, Vocabulary]:
    """Reads the vocabularies that `save_tokenizers` wrote."""
    vocabularies: dict[str, Vocabulary] = {}
    for name, features in _groups(data, configs).items():
        vocabularies |= dict.fromkeys(features, configs[features[0]].load(directory, name))
    return {feature: vocabularies[feature] for feature in configs}


def _groups(data: DataConfig, configs: Configs) -> dict[str, list[str]]:
    """The features that share a vocabulary, by the name of its file: all of text, or each alone."""
    groups: dict[str, list[str]] = {}
    for feature, config in configs.items():
        shared = data.shared_vocabulary and config == data.tokenizer
        groups.setdefault(SHARED if shared else feature, []).append(feature)
    return groups
