"""Constituency parsing as translation: words to the brackets of their tree (Vaswani et al. 2017, section 6.3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from jaxtyping import Array

from transformer_jax.data.config import DataConfig
from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples
from transformer_jax.data.tokenizers import WORD_BEGIN, SentencePiece, Tokenizer
from transformer_jax.data.trees import CLOSE, OPEN, is_leaf, is_tree, leaves_of, repaired, with_words
from transformer_jax.data.vocabulary import VocabularyConfig
from transformer_jax.decoding.constraints import TreeTokens
from transformer_jax.decoding.ensemble import Ensemble
from transformer_jax.models.config import Encoded
from transformer_jax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from transformer_jax.tasks.bracket_scores import Brackets, bracket_scores, brackets, branching, tag_accuracy
from transformer_jax.tasks.sequences import Tokens
from transformer_jax.tasks.task import Tokenizers
from transformer_jax.tasks.translation import Decoding, Translation, Translator

BRACKETS = SentencePiece(model_type="word", normalization="identity", vocab_size=1_000)
"""The vocabulary of trees: every bracket with its label, and every tag, is one token."""
LEAST = 3
"""Tokens of a tree beside its leaves, the end token included, at least."""


@dataclass(frozen=True)
class Parsing(Translation):
    """Learns the tree `target` of the words `source`, as `data/trees.py` writes it; `tags` of words serve the scores.

    Words have the vocabulary that data.tokenizer says, and trees another, in which every bracket with its label, and
    every tag, is a token.
    """

    decoding: Annotated[Decoding, MAY_CHANGE] = field(
        default_factory=lambda: Decoding(beam_size=21, length_penalty=0.3, extra_length=300)
    )
    """How trees are searched; by default as in the paper."""
    scores: Annotated[tuple[str, ...], MAY_CHANGE] = ("exact_match",)
    """Scores of an evaluation beside those of brackets: of the texts that stand for trees, as of a translation."""
    well_formed: Annotated[bool, MAY_CHANGE] = False
    """Whether the search is constrained to well-formed trees over the given words. If not, texts that are no such tree
    are repaired (data/trees.py) and counted."""

    def vocabularies(self, data: DataConfig) -> dict[str, VocabularyConfig]:
        words, tree = self.features
        return {words: data.tokenizer, tree: BRACKETS}

    @property
    def resampled(self) -> Mapping[str, tuple[int, int]]:
        words, _ = self.features
        return {words: super().resampled[words]}

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderDecoderConfig:
        if getattr(model, "share_embeddings", False):
            raise ValueError("words and trees have vocabularies of their own: set model.share_embeddings to False")
        # A source has one token at least for every word (but those that normalisation empties), and its end token.
        if self.well_formed and self.decoding.limit(data.max_length) < data.max_length - 1 + LEAST:
            raise ValueError(
                f"task.well_formed needs room for {LEAST} tokens more than words: raise task.decoding.extra_length "
                "and task.decoding.max_new_tokens"
            )
        if self.well_formed and self.decoding.no_repeat_ngram:
            raise ValueError("trees repeat their tokens: task.well_formed needs task.decoding.no_repeat_ngram 0")
        return super().resolve(model, data, vocab_sizes)

    def predictor(self, model: EncoderDecoder | Ensemble, tokenizers: Tokenizers, data: DataConfig) -> "Parser":
        """The model with `parse`."""
        words, tree = (tokenizers[feature] for feature in self.features)
        settings = {"max_length": data.max_length, "source_tokens": self.source_tokens(words, data.max_length)}
        settings |= {"target_start": self.target_start, "trees": tree_tokens(tree) if self.well_formed else None}
        return Parser(model, words, tree, self.decoding, **settings)

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        of_brackets: dict[str, Literal["lower", "higher"]] = dict.fromkeys(bracket_scores([], []), "higher")
        return {
            **super().metrics(),
            **of_brackets,
            "tag_accuracy": "higher",
            "malformed": "lower",
            "wrong_leaves": "lower",
        }

    def check_evaluation(self, tokenizers: Tokenizers, examples: EncodedExamples, *, max_length: int) -> None:
        super().check_evaluation(tokenizers, examples, max_length=max_length)
        list(map(self.right_tree, examples))

    def scores_of(self, texts: Sequence[str], examples: Sequence[Example]) -> dict[str, Any]:
        """The scores of brackets after repair, those of trees that branch to one side alone, and what was repaired.

        `tag_accuracy` is the percentage of words that have the right tag in repaired trees, punctuation included;
        `malformed` counts the texts that are no tree, `wrong_leaves` those with another number of leaves than words.
        """
        right, tags = [self.right_tree(example) for example in examples], [_tags(example) for example in examples]
        written = [text.split() for text in texts]
        trees = [repaired(tokens, len(of)) for tokens, of in zip(written, tags, strict=True)]
        found: dict[str, Any] = bracket_scores([*map(brackets, trees, tags)], right)
        found["tag_accuracy"] = tag_accuracy([*map(leaves_of, trees)], tags)
        found["malformed"] = sum(not is_tree(tokens) for tokens in written)
        found["wrong_leaves"] = sum(len(leaves_of(tokens)) != len(of) for tokens, of in zip(written, tags, strict=True))
        for side in ("right", "left"):
            baseline = bracket_scores([branching(of, right=side == "right") for of in tags], right)
            found |= {f"{side}_branching_{name}": baseline[name] for name in ("f1", "unlabelled_f1")}
        return super().scores_of(texts, examples) | found

    def right_tree(self, example: Example) -> Brackets:
        """The constituents of the right tree; ValueError for a text that is no tree over the words and their tags."""
        words, tokens, tags = example[self.features[0]].split(), example[self.target].split(), _tags(example)
        if not is_tree(tokens) or not len(words) == len(tags) == len(leaves_of(tokens)):
            raise ValueError(f"an example is no tree over its words, each with a tag: {example[self.target][:60]!r}")
        return brackets(tokens, tags)

    def samples(self, predictor: "Parser", examples: Sequence[Example]) -> list[str]:
        """Sentences and their trees, and the right tree where it is another."""
        lines = [example[self.features[0]] for example in examples]
        right = [with_words(example[self.target].split(), example[self.features[0]].split()) for example in examples]
        shown: list[str] = []
        for line, tree, other in zip(lines, predictor.parse(lines), right, strict=True):
            shown += [line, f"  -> {tree}", *([] if tree == other else [f"  not {other}"])]
        return shown


def _tags(example: Example) -> list[str]:
    """The tags of words, by which punctuation is known; ValueError where there are none."""
    if not isinstance(tags := example.get("tags"), str):
        raise ValueError("an example has no `tags` of its words, which say what is punctuation; Treebank gives them")
    return tags.split()


def tree_tokens(tokenizer: Tokenizer) -> TreeTokens:
    """The tokens of trees in their vocabulary."""
    pieces = {i: tokenizer.piece(i) for i in range(tokenizer.vocab_size)}
    words = {i: piece.removeprefix(WORD_BEGIN) for i, piece in pieces.items() if piece.startswith(WORD_BEGIN)}
    opening = (i for i, word in words.items() if word.startswith(OPEN))
    leaves = (i for i, word in words.items() if is_leaf(word))
    return TreeTokens(tuple(opening), tokenizer.token_id(WORD_BEGIN + CLOSE), tuple(leaves), tokenizer.eos_id)


class Parser(Translator):
    """Parses sentences, whose words are what is between white space; `translate` gives texts as models write them.

    With `trees` nothing else is written.
    """

    def __init__(self, *arguments: Any, trees: TreeTokens | None = None, **settings: Any):
        super().__init__(*arguments, **settings)
        self.trees = trees

    def parse(self, lines: Sequence[str]) -> list[str]:
        """The tree of every sentence, in the brackets of the Penn Treebank, of an empty line an empty text."""
        pairs = [(text.split(), line.split()) for text, line in zip(self.translate(lines), lines, strict=True)]
        return [with_words(repaired(tokens, len(words)), words) if words else "" for tokens, words in pairs]

    predict = parse

    def columns_of(self, lines: Sequence[str], encoded: Sequence[Tokens]) -> list[Sequence[Any]]:
        return [encoded] if self.trees is None else [encoded, [len(line.split()) for line in lines]]

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | ({} if self.trees is None else {"rules": self.trees})

    @staticmethod
    def vectors_of(model: EncoderDecoder | Ensemble, tokens: Array, lengths: Array, *leaves: Array) -> Encoded | Any:
        return model.encode(tokens, source_lengths=lengths)
