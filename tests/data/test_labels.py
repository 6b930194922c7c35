import pytest

from transformer_jax.data.labels import Labels

TEXTS = ["card_arrival", "lost_or_stolen_card", "atm_support", "card_arrival", "Refund_not_showing_up"]


def test_labels_are_those_of_the_texts_sorted():
    labels = Labels().train(iter(TEXTS))
    assert labels.names == ("Refund_not_showing_up", "atm_support", "card_arrival", "lost_or_stolen_card")
    assert labels.vocab_size == 4
    assert [labels.id(text) for text in TEXTS] == [2, 3, 1, 2, 0]
    assert Labels().train(["yes", " yes", "no "]).ids("yes ") == [1], "white space at the ends is no label"


def test_a_text_may_have_several_labels():
    assert Labels(many=True).train(["O B-place", "O"]).ids("O  B-place ") == [1, 0]


def test_an_unknown_label_is_named_with_the_nearest():
    labels = Labels().train(TEXTS)
    with pytest.raises(
        ValueError, match=r"there is no label 'card_arival' among the 4 .*\); did you mean card_arrival\?; add"
    ):
        labels.id("card_arival")
    with pytest.raises(
        ValueError, match=r"'c' among the 2 to learn from \(a, b\); add examples of it to the train split"
    ):
        Labels().train("ab").id("c")
    with pytest.raises(ValueError, match=r"'zzz' among the 6 .*\(a, b, c, d, e, ...\); add"):
        Labels().train("abcdef").id("zzz")


def test_no_labels_or_a_single_one_are_an_error():
    with pytest.raises(ValueError, match="all examples to learn from have the same label, 'a'; nothing to tell apart"):
        Labels().train(["a", "a "])
    assert Labels(many=True).train(["O O"]).names == ("O",)
    with pytest.raises(ValueError, match="there are no labels to learn; check data.source"):
        Labels().train([])


def test_saved_labels_are_loaded_from_the_file_of_any_version(tmp_path):
    labels = Labels(many=True).train([*TEXTS, "größe"])
    labels.save(tmp_path, "label")
    assert Labels(many=True).load(tmp_path, "label") == labels
    assert labels.fingerprint != Labels().train(TEXTS).fingerprint
    (tmp_path / "old.json").write_text('{"labels": ["no", "yes"]}')
    old = Labels().load(tmp_path, "old")
    assert (old.names, old.fingerprint) == (("no", "yes"), "17f72acdc34481af2fec80fe")
    with pytest.raises(FileNotFoundError, match=f"there is no file {tmp_path}/target.json, the labels of the run"):
        Labels().load(tmp_path, "target")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"labels": 3}'])
def test_a_file_that_is_no_labels_is_named(tmp_path, content):
    (tmp_path / "label.json").write_text(content)
    with pytest.raises(ValueError, match="label.json, the labels of the run, is not what was saved"):
        Labels().load(tmp_path, "label")
