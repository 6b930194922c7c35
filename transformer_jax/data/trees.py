"""Constituency trees: the brackets of the Penn Treebank, and the texts that a model learns to write for sentences.

Such a text is a tree without its words (Vinyals et al. 2015, "Grammar as a Foreign Language", section 2.2): an opening
bracket with its label, the tag of every word in its place, and a closing bracket, with spaces between them:

    (S (NP (NNP John)) (VP (VBZ has) (NP (DT a) (NN dog))) (. .))    (S (NP NNP ) (VP VBZ (NP DT NN ) ) . )

Tags are leaves as in Tensor2Tensor, the paper's own code; Vinyals et al. put XX in place of all. In both, closing
brackets have labels as well. Here they have none, since those follow from the opening ones: the vocabulary is smaller,
labels cannot contradict each other, and a text is a tree if its brackets can be counted.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from transformer_jax.data.lines import file_lines
from transformer_jax.data.sources import Example, SplitFiles

OPEN, CLOSE = "(", ")"
UNKNOWN = "XX"
"""The tag of a word that a model has left out, as treebanks have it for words of an unknown kind."""
TOP = "TOP"
"""The label above a tree, where one is needed."""
ROOTS = ("", TOP, "ROOT", "S1")
"""Labels that treebanks and tools give to the root, beside none."""
PART = re.compile(r"\(\s*([^\s()]+)\s+([^\s()]+)\s*\)|\(\s*([^\s()]*)|(\))|([^\s()]+)")
"""A tag and its word in brackets; or an opening bracket and its label; a closing one; anything else, which is wrong."""
DEEPEST = 1_000
"""Levels of a tree at most: constituents as examples have as many words together as words times levels."""
ESCAPED = str.maketrans({"(": "-LRB-", ")": "-RRB-"})
"""What treebanks write for brackets in words."""


@dataclass(frozen=True)
class Treebank(SplitFiles):
    """Files of trees in brackets, one or more lines a tree, as the Penn Treebank has them.

    `source` is the words, `tags` their tags and `target` the text that stands for the tree; all have spaces between
    their parts. Labels lose their functions (NP-SBJ and NP=2 become NP), and empty elements (-NONE-) are left out with
    the constituents that have nothing else.
    """

    constituents: bool = False
    """Whether constituents of several words are training examples beside whole trees: a small treebank has many more
    of them than trees, and in short ones it is easier to learn which word a tag belongs to."""

    def examples(self, split: str) -> Iterator[Example]:
        """The trees of a split, and of train their constituents if those are wanted.

        Raises ValueError or FileNotFoundError for files that are not as described.
        """
        for path in self.files(split):
            number = 0
            for number, text in _bracketed(file_lines(path), str(path)):
                try:
                    tree = linearised(text)
                except ValueError as error:
                    raise ValueError(f"{path}: the tree that ends in line {number} {error}") from None
                yield tree
                if self.constituents and split == "train":
                    yield from constituent_examples(tree)
            if not number:
                raise ValueError(f"{path} has no tree")

    def fingerprint(self, split: str) -> str:
        return self.digest(split, "tags as leaves", self.constituents and split == "train")


def _bracketed(lines: Iterable[str], name: str) -> Iterator[tuple[int, str]]:
    """The brackets of one tree after the other, and the number of the line that each ends in."""
    parts: list[str] = []
    depth = 0
    for number, line in enumerate(lines, 1):
        if line.strip():
            parts.append(line)
            depth += line.count(OPEN) - line.count(CLOSE)
        if parts and depth <= 0:
            yield number, " ".join(parts)
            parts, depth = [], 0
    if parts:
        raise ValueError(f"{name} ends inside a tree, {depth} brackets of which are open: {parts[0][:60]!r}")


def linearised(text: str) -> Example:
    """The words, their tags and the text that stands for a tree in brackets; ValueError for what is not one tree."""
    words: list[str] = []
    tags: list[str] = []
    written: list[str] = []
    depth, opened = 0, False
    for number, (tag, word, label, close, stray) in enumerate(PART.findall(text)):
        if stray or (depth <= 0 and (number or close)) or (close and opened):
            raise ValueError(f"is not one tree in brackets with a tag for every word: {text[:60]!r}")
        opened = not word and not close
        if not word:
            depth += -1 if close else 1
        if depth > DEEPEST:
            raise ValueError(f"has more than {DEEPEST:,} brackets in each other: {text[:60]!r}")
        if close:
            _close(written)
        elif not word:
            written.append(OPEN + re.split("(?<!^)[-=]", label)[0])
        elif tag != "-NONE-":
            words.append(word)
            tags.append(tag)
            written.append(tag)
    if depth or not words or not written[0].startswith(OPEN):
        raise ValueError(f"is not a tree with words whose brackets are balanced: {text[:60]!r}")
    return {"source": " ".join(words), "tags": " ".join(tags), "target": " ".join(_without_root(written))}


def _without_root(tokens: list[str]) -> list[str]:
    """A tree without the label above it, which stays, as TOP, if it is above several or a word alone."""
    if tokens[0][1:] not in ROOTS:
        return tokens
    inside = {(start, end) for _, start, end in spans(tokens[1:-1])}
    return tokens[1:-1] if (0, len(leaves_of(tokens))) in inside else [OPEN + TOP, *tokens[1:]]


def _close(written: list[str]) -> None:
    """Closes the last bracket that is open, or takes it back if there is nothing inside."""
    if written[-1].startswith(OPEN):
        written.pop()
    else:
        written.append(CLOSE)


def constituent_examples(tree: Example) -> Iterator[Example]:
    """The constituents of several words inside a linearised tree, each as a tree; of equal words the innermost."""
    words, tags, tokens = (tree[name].split() for name in ("source", "tags", "target"))
    seen = {(0, len(words))}
    for begin, end, first, last in _extents(tokens):
        if last - first > 1 and (first, last) not in seen:
            seen.add((first, last))
            parts = {"source": words[first:last], "tags": tags[first:last], "target": tokens[begin:end]}
            yield {name: " ".join(part) for name, part in parts.items()}


def is_leaf(token: str) -> bool:
    """Whether a token is a tag: all that is no bracket."""
    return not token.startswith(OPEN) and token != CLOSE


def leaves_of(tokens: Iterable[str]) -> list[str]:
    """The tags of a tree, or of what a model wrote."""
    return [token for token in tokens if is_leaf(token)]


def spans(tokens: Sequence[str]) -> list[tuple[str, int, int]]:
    """Label, first leaf and end of every constituent of a tree, in the order of their ends."""
    return [(tokens[begin][1:], first, last) for begin, _, first, last in _extents(tokens)]


def _extents(tokens: Sequence[str]) -> Iterator[tuple[int, int, int, int]]:
    """Where every constituent begins and ends among the tokens and among the leaves, in the order of their ends."""
    opened: list[tuple[int, int]] = []
    leaves = 0
    for place, token in enumerate(tokens):
        if token.startswith(OPEN):
            opened.append((place, leaves))
        elif token == CLOSE:
            begin, first = opened.pop()
            yield begin, place + 1, first, leaves
        else:
            leaves += 1


def repaired(tokens: Sequence[str], leaves: int) -> list[str]:
    """The tree with so many leaves for what a model wrote; the same if it is one.

    Without a bracket at the beginning, TOP is put there. Closing brackets that would end the tree before its last token
    are dropped, and so are leaves beyond the last. Brackets that are open in the end are closed, and missing leaves
    stand behind them as XX, in the outermost constituent. Then constituents without leaves are left out.
    """
    written: list[str] = []
    depth = read = 0
    for token in tokens if tokens and tokens[0].startswith(OPEN) else [OPEN + TOP, *tokens]:
        if token.startswith(OPEN):
            written.append(token)
            depth += 1
        elif token == CLOSE and depth > 1:
            _close(written)
            depth -= 1
        elif is_leaf(token) and read < leaves:
            written.append(token)
            read += 1
    for _ in range(depth - 1):
        _close(written)
    written += [UNKNOWN] * (leaves - read)
    _close(written)
    return written


def is_tree(tokens: Sequence[str]) -> bool:
    """Whether what a model wrote is one tree, of any number of leaves."""
    return len(tokens) > 0 and repaired(tokens, len(leaves_of(tokens))) == list(tokens)


def with_words(tokens: Iterable[str], words: Iterable[str]) -> str:
    """A tree with its words, of which it has as many as leaves, in the brackets of the Penn Treebank."""
    rest = (word.translate(ESCAPED) for word in words)
    parts = [f"({token} {next(rest)})" if is_leaf(token) else token for token in tokens]
    return " ".join(parts).replace(f" {CLOSE}", CLOSE)
