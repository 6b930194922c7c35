from dataclasses import replace

import jax
import numpy as np
import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.tokenizers import Bytes
from transformer_jax.data.trees import Treebank, is_tree, leaves_of, linearised
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.tasks.parsing import BRACKETS, Parsing
from transformer_jax.tasks.translation import Decoding

BANK = [
    linearised("(ROOT (S (NP-SBJ (DT the) (NN dog)) (VP (VBD ran) (PRT (RP off))) (. .)))"),
    linearised("(ROOT (INTJ (UH oh) (, ,) (UH no)))"),
]
TOKENIZERS = {"source": Bytes().train([]), "target": BRACKETS.train(example["target"] for example in BANK)}
DATA = DataConfig(source=Treebank(), tokenizer=Bytes(), shared_vocabulary=False, max_length=24)
MODEL = EncoderDecoderConfig(d_model=16, num_heads=2, d_ff=32, num_layers=1, dropout=0.0, share_embeddings=False)
SIZES = {feature: tokenizer.vocab_size for feature, tokenizer in TOKENIZERS.items()}
TASK = Parsing(decoding=Decoding(beam_size=3, length_penalty=0.3, extra_length=10))
LINES = ["the dog ran off", "interjection", "", "a b c d e f g h"]


@pytest.fixture(scope="module")
def models():
    """Models that know nothing; larger embeddings make what they write differ from each other."""
    config = TASK.resolve(MODEL, DATA, SIZES)
    return [jax.tree.map(lambda array: 4 * array, config.build(seed)) for seed in range(3)]


@pytest.mark.parametrize("decoding", [{}, {"beam_size": 4, "groups": 2}, {"beam_size": 1, "max_new_tokens": 11}])
def test_the_search_is_held_to_trees_over_the_words(models, decoding):
    task = replace(TASK, well_formed=True, decoding=replace(TASK.decoding, **decoding))
    written = set()
    for model in models:
        parser, pairs = task.predictor(model, TOKENIZERS, DATA), []
        for line, found in zip(LINES, parser.search(LINES, n_best=parser.decoding.beam_size), strict=True):
            for text, _, log_prob in found if line else ():
                tokens = text.split()
                assert is_tree(tokens) and len(leaves_of(tokens)) == len(line.split())
                assert len(tokens) < task.decoding.limit(len(line) + 1)
                written.add(text)
                if len(tokens) < DATA.max_length - 1:
                    pairs.append((line, text, log_prob))
        lines, texts, log_probs = zip(*pairs, strict=True)
        np.testing.assert_allclose(log_probs, parser.score(lines, texts), rtol=1e-4)
    assert len(written) > 3


def test_without_that_a_model_that_knows_nothing_writes_no_trees(models):
    parser = TASK.predictor(models[0], TOKENIZERS, DATA)
    assert not any(is_tree(text.split()) for text in parser.translate(LINES))
    for line, tree in zip(LINES, parser.parse(LINES), strict=True):
        assert (linearised(tree)["source"] if tree else "") == line and tree.count("(") == tree.count(")")


def test_a_search_that_has_no_room_for_a_tree_is_refused(models):
    task = replace(TASK, well_formed=True, decoding=replace(TASK.decoding, max_new_tokens=25))
    with pytest.raises(ValueError, match="task.well_formed needs room for 3 tokens more than words"):
        task.resolve(MODEL, DATA, SIZES)
    assert replace(task, well_formed=False).resolve(MODEL, DATA, SIZES)
    task = replace(task, decoding=replace(TASK.decoding, max_new_tokens=10))
    with pytest.raises(ValueError, match="line 4 has no output: its rules rule all out"):
        task.predictor(models[0], TOKENIZERS, DATA).parse(LINES)
    with pytest.raises(ValueError, match="set model.share_embeddings to False"):
        TASK.resolve(replace(MODEL, share_embeddings=True), DATA, SIZES)


def test_an_evaluation_scores_repaired_trees_and_counts_what_was_repaired(models, encoded, monkeypatch):
    rows = encoded(TASK, TOKENIZERS, BANK, max_length=24)
    TASK.check_evaluation(TOKENIZERS, rows, max_length=24)
    parser = TASK.predictor(models[0], TOKENIZERS, DATA)
    texts = [BANK[0]["target"].removesuffix(" )"), "(INTJ UH UH )"]
    monkeypatch.setattr(Parsing, "outputs", lambda *_: texts)
    found = TASK.evaluate(parser, rows)
    assert found["examples"] == 2 and (found["malformed"], found["wrong_leaves"]) == (1, 1)
    assert found["f1"] == found["complete_match"] == 100 and found["exact_match"] == 0
    assert found["tag_accuracy"] == 100 * 6 / 8
    assert found["right_branching_f1"] == pytest.approx(100 * 2 * 2 / (4 + 5))
    assert found["left_branching_unlabelled_f1"] == pytest.approx(100 * 2 * 3 / (4 + 5))
    assert TASK.metrics().keys() <= {"loss"} | found.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tags": None}, "an example has no `tags` of its words"),
        ({"tags": "UH"}, "an example is no tree over its words, each with a tag"),
        ({"target": "(INTJ UH , UH"}, "an example is no tree over its words"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_training(encoded, changes, message):
    rows = encoded(TASK, TOKENIZERS, [{**BANK[1], **changes}], max_length=24)
    with pytest.raises(ValueError, match=message):
        TASK.check_evaluation(TOKENIZERS, rows, max_length=24)


def test_samples_show_trees_with_their_words(models, monkeypatch):
    parser = TASK.predictor(models[0], TOKENIZERS, DATA)
    monkeypatch.setattr(parser, "translate", lambda lines: ["(INTJ UH (INTJ ,"])
    wrong = "(INTJ (UH oh) (INTJ (, ,)) (XX no))"
    right = "(INTJ (UH oh) (, ,) (UH no))"
    assert TASK.samples(parser, BANK[1:]) == ["oh , no", f"  -> {wrong}", f"  not {right}"]
    assert parser.predict(["oh , no"]) == [wrong]


def test_the_search_learns_nothing_of_other_rows(models):
    task = replace(TASK, well_formed=True)
    parser = task.predictor(models[1], TOKENIZERS, DATA)
    alone = [parser.translate([line])[0] for line in LINES]
    assert parser.translate(LINES) == alone and alone[2] == ""
