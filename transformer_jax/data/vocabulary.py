"""The vocabularies of a run: one for all features of text, or one for each, and labels."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from transformer_jax.data.config import DataConfig
from transformer_jax.data.labels import Labels
from transformer_jax.data.sources import Example
from transformer_jax.data.tokenizers import Tokenizer, TokenizerConfig

Vocabulary = Tokenizer | Labels
VocabularyConfig = TokenizerConfig | Labels

SHARED = "shared"
"""The file name of the vocabulary that all features of text share."""


def train_tokenizers(
    data: DataConfig,
    configs: Mapping[str, VocabularyConfig],
    examples: Callable[[], Iterable[Example]],
    known: Mapping[str, Vocabulary] = MappingProxyType({}),
) -> dict[str, Vocabulary]:
    """The vocabulary of every feature of `configs`, trained on these examples (or loaded, where its field says so).

    Features whose vocabulary is `known` get that.
    """
    vocabularies: dict[str, Vocabulary] = {}
    for of in _groups(data, configs).values():
        texts = (example[feature] for example in examples() for feature in of)
        vocabularies |= dict.fromkeys(of, known[of[0]] if of[0] in known else configs[of[0]].train(texts))
    return {feature: vocabularies[feature] for feature in configs}


def save_tokenizers(
    data: DataConfig,
    configs: Mapping[str, VocabularyConfig],
    vocabularies: Mapping[str, Vocabulary],
    directory: Path,
) -> None:
    """Writes every vocabulary once."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, of in _groups(data, configs).items():
        vocabularies[of[0]].save(directory, name)


def load_tokenizers(
    data: DataConfig, configs: Mapping[str, VocabularyConfig], directory: Path
) -> dict[str, Vocabulary]:
    """What `save_tokenizers` wrote."""
    vocabularies: dict[str, Vocabulary] = {}
    for name, of in _groups(data, configs).items():
        vocabularies |= dict.fromkeys(of, configs[of[0]].load(directory, name))
    return {feature: vocabularies[feature] for feature in configs}


def _groups(data: DataConfig, configs: Mapping[str, VocabularyConfig]) -> dict[str, list[str]]:
    """The features that share a vocabulary, by the name under which it is saved: all of text, or each alone."""
    groups: dict[str, list[str]] = {}
    for feature, config in configs.items():
        shared = data.shared_vocabulary and config == data.tokenizer
        groups.setdefault(SHARED if shared else feature, []).append(feature)
    return groups
