import gzip
from dataclasses import replace

import pytest

from transformer_jax.data.tokenizers import SentencePiece
from transformer_jax.data.trees import Treebank, is_tree, linearised, repaired, spans, with_words

PENN = """\
( (S
    (NP-SBJ-1 (NNP John) )
    (VP (VBZ wants)
      (S (NP-SBJ (-NONE- *-1) )
        (VP (TO to) (VP (VB leave)))))
    (. .) ))

(ROOT (NP (NN Introduction)))
"""
JOHN = "(S (NP NNP ) (VP VBZ (S (VP TO (VP VB ) ) ) ) . )"


def test_penn_brackets_become_words_tags_and_brackets_without_functions_and_empty_elements(tmp_path):
    (tmp_path / "a.mrg").write_text(PENN)
    (tmp_path / "b.ptb.gz").write_bytes(gzip.compress(b"(TOP (S=2 (-LRB- -LRB-) (ADVP|PRT (RB up))))"))
    bank = Treebank(directory=str(tmp_path), train=("a.mrg", "b.ptb.gz"))
    assert bank.splits == ("train",)
    assert list(bank.examples("train")) == [
        {"source": "John wants to leave .", "tags": "NNP VBZ TO VB .", "target": JOHN},
        {"source": "Introduction", "tags": "NN", "target": "(NP NN )"},
        {"source": "-LRB- up", "tags": "-LRB- RB", "target": "(S -LRB- (ADVP|PRT RB ) )"},
    ]


def test_constituents_of_several_words_are_training_examples_of_their_own(tmp_path):
    (tmp_path / "a.mrg").write_text(PENN)
    plain = Treebank(directory=str(tmp_path), train=("a.mrg",), validation=("a.mrg",))
    bank = replace(plain, constituents=True)
    whole = list(bank.examples("validation"))
    assert [example for example in bank.examples("train") if example not in whole] == [
        {"source": "to leave", "tags": "TO VB", "target": "(VP TO (VP VB ) )"},
        {"source": "wants to leave", "tags": "VBZ TO VB", "target": "(VP VBZ (S (VP TO (VP VB ) ) ) )"},
    ]
    assert bank.fingerprint("train") != plain.fingerprint("train")
    assert bank.fingerprint("validation") == plain.fingerprint("validation")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("(ROOT (NP (NN a)) (. .))", "(TOP (NP NN ) . )"),
        ("(ROOT (UH yes))", "(TOP UH )"),
        ("(S1 (X (NP (NN a))))", "(X (NP NN ) )"),
    ],
)
def test_the_root_is_left_out_unless_it_holds_a_tree_together(text, target):
    assert linearised(text)["target"] == target


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(S (NN a)) (S (NN b))", "b.ptb: the tree that ends in line 1 is not one tree"),
        ("(S a)\n)", "the tree that ends in line 1 is not a tree with words"),
        ("(S (NN a)\n(S (NN b))", "b.ptb ends inside a tree, 1 brackets of which are open"),
        ("\n(S (NN a) b)", "the tree that ends in line 2 is not one tree"),
        (")(", "the tree that ends in line 1 is not one tree"),
        ("\n \n", "b.ptb has no tree"),
        ("(S" * 1_001 + " (NN a)" + ")" * 1_001, "the tree that ends in line 1 has more than 1,000 brackets in each"),
    ],
)
def test_what_is_no_tree_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "b.ptb").write_text(text)
    with pytest.raises(ValueError, match=message):
        list(Treebank(directory=str(tmp_path), train=("b.ptb",)).examples("train"))


def test_brackets_with_their_labels_are_whole_tokens():
    tokenizer = SentencePiece(model_type="word", normalization="identity", vocab_size=1_000).train([JOHN, "(NP NN )"])
    pieces = {"\u2581" + token for token in JOHN.split()}
    assert {tokenizer.piece(i) for i in tokenizer.encode(JOHN)} == pieces
    assert tokenizer.decode(tokenizer.encode(JOHN)) == JOHN


def test_spans_are_labels_with_their_first_leaf_and_end():
    assert spans(["(S", "(NP", "NN", ")", "(VP", "VB", "RB", ")", ")"]) == [("NP", 0, 1), ("VP", 1, 3), ("S", 0, 3)]


@pytest.mark.parametrize(
    ("written", "leaves", "repair"),
    [
        (JOHN, 5, JOHN),
        ("(S (NP NN ) (VP VB", 2, "(S (NP NN ) (VP VB ) )"),  # brackets left open
        ("(S (NP NN ) ) (VP VB ) ) )", 2, "(S (NP NN ) (VP VB ) )"),  # and too many
        ("(S (NP DT (NP NN", 4, "(S (NP DT (NP NN ) ) XX XX )"),  # leaves too few
        ("(S (NP NN NN ) (VP VB ) )", 1, "(S (NP NN ) )"),  # and too many
        ("(S (NP (PP ) ) UH )", 1, "(S UH )"),  # constituents without leaves
        ("UH (NP NN )", 2, "(TOP UH (NP NN ) )"),
        ("", 1, "(TOP XX )"),
    ],
)
def test_what_is_written_is_repaired_to_a_tree_over_the_words(written, leaves, repair):
    assert repaired(written.split(), leaves) == repair.split()
    assert is_tree(repair.split())
    assert is_tree(written.split()) == (written in (JOHN, "(S (NP NN NN ) (VP VB ) )"))


def test_trees_are_shown_with_their_words():
    words = with_words(["(S", "(NP", "NN", ")", "-RRB-", "XX", ")"], ["a)", ")", "f(x)"])
    assert words == "(S (NP (NN a-RRB-)) (-RRB- -RRB-) (XX f-LRB-x-RRB-))"
    assert linearised(words)["source"] == "a-RRB- -RRB- f-LRB-x-RRB-"
