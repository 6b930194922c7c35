import json
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files
from transformer_jax.data.squad import Squad
from transformer_jax.data.subwords import WordPiece
from transformer_jax.data.tokenizers import Bytes
from transformer_jax.models.encoder_only import bert
from transformer_jax.tasks.question_answering import QuestionAnswering, windows
from transformer_jax.tasks.scores import squad_scores

MODEL = bert(d_model=16, num_heads=2, d_ff=32, num_layers=1, max_length=32, dropout=0.0, attention_dropout=0.0)
DATA = DataConfig(source=Files(), tokenizer=Bytes(), max_length=32)
TASK = QuestionAnswering(stride=6, max_answer=8)
TOKENIZER = Bytes().train([])
TOKENIZERS = {"question": TOKENIZER, "context": TOKENIZER}
CONTEXT = "In Köln they found a golden house by the river."
EXAMPLE = {"question": "what?", "context": CONTEXT, "answer": "a golden", "start": str(CONTEXT.index("a golden"))}


@pytest.fixture(scope="module")
def answerer():
    model = TASK.resolve(MODEL, DATA, {"question": 260, "context": 260}).build(0)
    return TASK.predictor(model, TOKENIZERS, DATA)


def test_an_answer_stands_where_it_is_said_to_begin_and_is_not_too_long(answerer):
    contexts = [f"  {word}  a  long  b {word}" for word in ("abc", "defg", "hi", "jklmnop", "q", "rs tu")]
    for (question, context), answer in zip(
        (pairs := [("what?", context) for context in contexts]), answerer.answers(pairs), strict=True
    ):
        assert context[answer.start : answer.start + len(answer.text)] == answer.text != "", question
        assert len(answer.text) <= TASK.max_answer


def test_windows_overlap_and_cover_the_context():
    found = windows(TOKENIZER, "what?", CONTEXT, 32, 6)
    assert len(found) > 1 and all(len(window.tokens) <= 32 for window in found)
    for one, other in zip(found, found[1:], strict=False):
        assert one.offsets[-6:] == other.offsets[:6]
    places = {place for window in found for span in window.offsets for place in span}
    assert places == set(range(len(CONTEXT) + 1))
    for window in found:
        assert window.first == 7 and len(window.tokens) == 8 + len(window.offsets)
        assert window.tokens[6] == window.tokens[-1] == TOKENIZER.eos_id


def test_spans_are_those_of_the_answer_where_a_window_has_it():
    columns = TASK.encode(TOKENIZERS, [EXAMPLE], max_length=32)
    assert len(columns["tokens"]) == len(columns["first"]) == len(columns["span"]) > 1
    texts = [
        TOKENIZER.decode(tokens[start : end + 1])
        for tokens, (start, end) in zip(columns["tokens"], columns["span"], strict=True)
        if (start, end) != (0, 0)
    ]
    assert texts and set(texts) == {"a golden"}
    assert [0, 0] in columns["span"], "a window without the answer"


def test_accents_and_spaces_that_the_vocabulary_drops_are_part_of_an_answer():
    context = "At the cafe\u0301 \u200d they sat down."
    tokenizer = WordPiece(vocab_size=60).train([context])
    tokenizers = {"question": tokenizer, "context": tokenizer}
    for answer in ("cafe\u0301", "cafe\u0301 ", "cafe\u0301 \u200d", "the cafe\u0301"):
        example = {"question": "where?", "context": context, "answer": answer, "start": str(context.index(answer))}
        columns = TASK.encode(tokenizers, [example], max_length=60)
        (tokens,), ((first, last),) = columns["tokens"], columns["span"]
        assert "".join(map(tokenizer.piece, tokens[first : last + 1])).replace("##", "").endswith("cafe")


def test_an_answer_that_is_not_in_its_context_is_refused():
    with pytest.raises(ValueError, match="the answer 'a golden' is not at character 3"):
        TASK.encode(TOKENIZERS, [EXAMPLE | {"start": "3"}], max_length=32)
    with pytest.raises(ValueError, match="has an empty context"):
        windows(TOKENIZER, "what?", "", 32, 6)
    with pytest.raises(ValueError, match="no room for a context"):
        windows(TOKENIZER, "x" * 28, CONTEXT, 32, 6)


def test_the_loss_is_that_of_first_and_last_token(answerer):
    columns = TASK.encode(TOKENIZERS, [EXAMPLE], max_length=32)
    rows = len(columns["tokens"])
    tokens = jnp.asarray([row + [0] * (34 - len(row)) for row in columns["tokens"]])
    lengths = jnp.asarray([len(row) for row in columns["tokens"]])
    batch = {"tokens": tokens, "tokens_length": lengths, "first": jnp.asarray(columns["first"])}
    batch |= {"span": jnp.asarray(columns["span"])}
    total, count = jax.jit(TASK.loss)(answerer.model, batch, None)["loss"]
    expected = 0.0
    for row in range(rows):
        ids, (start, end) = columns["tokens"][row], columns["span"][row]
        types = jnp.asarray([[int(i >= 7) for i in range(len(ids))]])
        logits = jax.nn.log_softmax(answerer.model(jnp.asarray([ids]), token_types=types)[0], axis=0)
        expected -= float(logits[start, 0] + logits[end, 1]) / 2
    assert count == rows and float(total) == pytest.approx(expected, rel=1e-4)


def test_an_evaluation_reads_the_windows_of_all_contexts_from_the_table(answerer, encoded):
    answer = answerer.answer([("what?", CONTEXT)])[0]
    others = [EXAMPLE | {"context": "house", "answer": "house", "start": "0"}, EXAMPLE]
    examples = [EXAMPLE | {"answer": answer, "start": str(CONTEXT.index(answer))}, *others]
    examples = encoded(TASK, TOKENIZERS, examples, max_length=32)
    assert len(examples.of_rows) > 3 and set(examples.of_rows) == {0, 1, 2}
    right = [answerer.answer([(each["question"], each["context"])]) == [each["answer"]] for each in examples]
    assert right[0] and TASK.evaluate(answerer, examples)["exact_match"] == pytest.approx(100 * np.mean(right))


def test_the_answer_is_the_best_span_of_all_windows(answerer):
    best = (-np.inf, 0, 0)
    for window in windows(TOKENIZER, "what?", CONTEXT, 32, 6):
        types = jnp.asarray([[int(i >= 7) for i in range(len(window.tokens))]])
        logits = np.asarray(answerer.model(jnp.asarray([window.tokens]), token_types=types)[0])
        for start, (begin, _) in enumerate(window.offsets):
            for end, (_, stop) in enumerate(window.offsets[start : start + 8], start):
                best = max(best, (float(logits[7 + start, 0] + logits[7 + end, 1]), begin, stop))
    (found,) = answerer.answers([("what?", CONTEXT)])
    assert found.score == pytest.approx(best[0], rel=1e-4)
    assert found.text == CONTEXT[best[1] : best[2]].strip() and found.start == best[1]
    assert answerer.predict([f"what?\t{CONTEXT}"]) == [found.text]
    with pytest.raises(ValueError, match="line 2 has no tab"):
        answerer.predict([f"what?\t{CONTEXT}", "what?"])


def test_scores_are_those_of_squad():
    right = [["palace", "golden house"], ["the house", "no", "x"], ["sea"], ["x"]]
    found = squad_scores(["The Golden House!", "in a house", "river", ""], right)
    # Exact, half of "in house", nothing, nothing.
    assert found["exact_match"] == 25
    assert found["f1"] == pytest.approx(100 * (1 + 2 / 3) / 4)


def squad(tmp_path, context, *questions):
    """What is read of a file with one context."""
    paragraphs = [{"context": context, "qas": [{"question": "q", **question} for question in questions]}]
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")
    return list(Squad(directory=str(tmp_path), train=("a.json",)).examples("train"))


def answers(*pairs):
    return {"answers": [{"text": text, "answer_start": start} for text, start in pairs]}


def test_squad_questions_have_several_answers_or_none(tmp_path):
    found = squad(
        tmp_path,
        "In Rome, in 1999",
        answers(("Rome", 3), ("In Rome", 0), ("Rome", 3)),
        {"is_impossible": True, **answers(), "plausible_answers": [{"text": "Rome", "answer_start": 3}]},
        {"is_impossible": True, **answers(("", -1))},
        {"is_impossible": False, **answers(("1999", 12))},
        answers(),
    )
    assert [(example["answer"], example["start"]) for example in found] == [
        ("Rome", "3"), ("", ""), ("", ""), ("1999", "12"), ("", "")
    ]  # fmt: skip
    assert json.loads(found[0]["answers"]) == ["Rome", "In Rome"]
    skipped = Counter()
    assert [example["start"] for example in TASK.readable(found, skipped)] == [3, 12] and skipped == {"empty": 3}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-8"])
def test_answers_may_be_counted_in_units_of_utf_16_or_utf_8(tmp_path, encoding):
    context, unit = "\U0001f466 ate aé \U0001f369\U0001f369, aaa", {"utf-16-le": 2, "utf-8": 1}[encoding]
    places = [context.index(text) for text in ("ate", "\U0001f369,", "aaa")]
    found = squad(
        tmp_path,
        context,
        *(answers((context[i : i + 3], len(context[:i].encode(encoding)) // unit)) for i in places),
    )
    assert [int(example["start"]) for example in found] == places


def test_answers_that_do_not_stand_where_they_are_said_to_are_counted(tmp_path):
    with pytest.raises(ValueError, match="a.json: 1 of 2 answers are not at .* such as 'Rome'"):
        squad(tmp_path, "In Rome", answers(("In", 0)), answers(("Rome", 4)))
    with pytest.raises(ValueError, match="a.json: 1 of 1 answers are not at"):
        squad(tmp_path, "In Rome", answers(("Rome", -4)))  # which counts from the end in Python alone
    (tmp_path / "a.json").write_text(f'{{"data": {"9" * 5000}}}')
    with pytest.raises(ValueError, match="a.json is not JSON"):
        list(Squad(directory=str(tmp_path), train=("a.json",)).examples("train"))


def test_squad_files_are_split_by_article(tmp_path):
    articles = [
        {
            "title": f"article {i}",
            "paragraphs": [
                {"context": f"text {i}", "qas": [{"question": "q", "answers": [{"text": "text", "answer_start": 0}]}]}
            ],
        }
        for i in range(40)
    ]
    (tmp_path / "en.json").write_text(json.dumps({"data": articles}), encoding="utf-8")
    source = Squad(directory=str(tmp_path), train=("en.json",), holdout=0.25)
    assert source.splits == ("train", "validation")
    splits = [[example["context"] for example in source.examples(split)] for split in source.splits]
    assert sorted(splits[0] + splits[1]) == sorted(f"text {i}" for i in range(40)) and 4 < len(splits[1]) < 18
    (tmp_path / "bad.json").write_text('{"data": [{"title": "x"}]}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"is not a SQuAD file: KeyError 'paragraphs'"):
        list(Squad(directory=str(tmp_path), train=("bad.json",)).examples("train"))
