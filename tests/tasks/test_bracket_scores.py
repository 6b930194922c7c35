"""The rules of evalb with COLLINS.prm, on trees worked through by hand."""

import pytest

from transformer_jax.data.trees import linearised
from transformer_jax.tasks.bracket_scores import bracket_scores, brackets, branching

DOG = linearised("(ROOT (S (NP-SBJ (DT the) (NN dog)) (VP (VBD ran) (PRT (RP off))) (. .)))")
QUOTE = linearised("(S (`` ``) (NP (PRP I)) (PRN (, ,) (: --)) (VP (VBP go)) ('' '') (. .))")


def of(example, target=None):
    return brackets((target or example["target"]).split(), example["tags"].split())


def test_punctuation_and_the_root_do_not_count_and_particles_are_adverbs():
    assert of(DOG) == {("NP", 0, 2): 1, ("ADVP", 3, 4): 1, ("VP", 2, 4): 1, ("S", 0, 4): 1}
    assert of(DOG, "(TOP (NP XX XX ) XX (ADVP XX XX ) )") == {("NP", 0, 2): 1, ("ADVP", 3, 4): 1}
    assert of(QUOTE) == {("NP", 0, 1): 1, ("VP", 1, 2): 1, ("S", 0, 2): 1}, "PRN has punctuation alone"


def test_precision_recall_and_f1_are_of_all_constituents_together():
    # The verb phrase is too short; the particle, an ADVP now, reaches over the full stop, which does not count.
    dog = of(DOG, "(S (NP XX XX ) (VP XX ) (ADVP XX XX ) )")
    # One constituent is there twice, though once is right, one has another label, and one is missing.
    quote = of(QUOTE, "(S XX (NP (NP XX ) ) (X XX XX XX ) XX XX )")
    found = bracket_scores([dog, quote], [of(DOG), of(QUOTE)])
    matched, written, there = 3 + 2, 4 + 4, 4 + 3
    assert found["precision"] == pytest.approx(100 * matched / written)
    assert found["recall"] == pytest.approx(100 * matched / there)
    assert found["f1"] == pytest.approx(100 * 2 * matched / (written + there))
    assert found["unlabelled_f1"] == pytest.approx(100 * 2 * (matched + 1) / (written + there))
    assert found["complete_match"] == 0
    assert bracket_scores([of(DOG), quote], [of(DOG), of(QUOTE)])["complete_match"] == 50
    assert bracket_scores([of(DOG)], [of(DOG)])["f1"] == 100
    assert set(bracket_scores([], []).values()) == {0.0}


def test_baselines_branch_to_one_side_over_the_words_that_count():
    tags = ["DT", "NN", "VBD", "RP", "."]
    assert branching(tags, right=True) == {("S", 0, 4): 1, ("VP", 1, 4): 1, ("VP", 2, 4): 1}
    assert branching(tags, right=False) == {("S", 0, 4): 1, ("NP", 0, 3): 1, ("NP", 0, 2): 1}
    assert branching(["UH", "."], right=True) == {("S", 0, 1): 1}
    assert branching(["."], right=True) == {}
