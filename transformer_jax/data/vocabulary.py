"""The tokenizers of a run: one for all features of text, or one for each."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from transformer_jax.data.config import DataConfig
from transformer_jax.data.dataset import readable
from transformer_jax.data.tokenizers import Tokenizer, TokenizerConfig

SHARED = "shared"


def train_tokenizers(
    config: DataConfig,
    features: Sequence[str],
    kinds: Mapping[str, TokenizerConfig],
    known: Mapping[str, Tokenizer] = MappingProxyType({}),
) -> dict[str, Tokenizer]:
    """The tokenizer of every feature of `kinds`, trained on the train split (or loaded, where its configuration says).

    Examples that lack one of the `features` do not count. Features whose tokenizer is `known` get that.
    """

    def texts(of: Sequence[str]) -> Iterator[str]:
        for example in readable(config.source.examples("train"), features, Counter()):
            yield from (example[feature] for feature in of)

    found: dict[str, Tokenizer] = {}
    for of in _groups(config, kinds).values():
        found |= dict.fromkeys(of, known[of[0]] if of[0] in known else kinds[of[0]].train(texts(of)))
    return {feature: found[feature] for feature in kinds}


def save_tokenizers(
    config: DataConfig, kinds: Mapping[str, TokenizerConfig], tokenizers: Mapping[str, Tokenizer], directory: Path
) -> None:
    """Writes every tokenizer once."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, of in _groups(config, kinds).items():
        tokenizers[of[0]].save(directory, name)


def load_tokenizers(config: DataConfig, kinds: Mapping[str, TokenizerConfig], directory: Path) -> dict[str, Tokenizer]:
    """What `save_tokenizers` wrote."""
    found: dict[str, Tokenizer] = {}
    for name, of in _groups(config, kinds).items():
        found |= dict.fromkeys(of, kinds[of[0]].load(directory, name))
    return {feature: found[feature] for feature in kinds}


def _groups(config: DataConfig, kinds: Mapping[str, TokenizerConfig]) -> dict[str, list[str]]:
    """The features that share a vocabulary, by the name under which it is saved: all of text, or each alone."""
    groups: dict[str, list[str]] = {}
    for feature, kind in kinds.items():
        shared = config.shared_vocabulary and kind == config.tokenizer
        groups.setdefault(SHARED if shared else feature, []).append(feature)
    return groups
