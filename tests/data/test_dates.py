import itertools
import re
from dataclasses import replace
from datetime import date, timedelta

import pytest
from babel import Locale
from babel.dates import format_date

from transformer_jax.data.dates import LANGUAGES, SKELETONS, Dates

SMALL = Dates(first_year=2020, last_year=2039, train_examples=8_000, validation_examples=800, test_examples=800)


@pytest.fixture(scope="module")
def splits():
    return {split: list(SMALL.examples(split)) for split in SMALL.splits}


def test_a_date_is_in_one_split_only(splits):
    train, validation, test = ({example["target"] for example in examples} for examples in splits.values())
    assert not train & validation and not train & test and not validation & test


def test_no_text_means_two_dates(splits):
    meanings = {}
    for examples in splits.values():
        for example in examples:
            assert meanings.setdefault(example["source"], example["target"]) == example["target"]


def test_no_text_of_a_split_is_how_any_language_writes_another_date(splits):
    """Babel itself, asked for every day of a year in every language and width, never gives one of our texts twice."""
    texts = {e["source"]: e["target"] for examples in splits.values() for e in examples if e["target"] >= "2026"}
    year = max({target[:4] for target in texts.values()}, key=lambda y: sum(t[:4] == y for t in texts.values()))
    days = [date(int(year), 1, 1) + timedelta(days) for days in range(365)]
    found = 0
    for language in LANGUAGES:
        locale = Locale.parse(language)
        for pattern in (
            "full",
            "long",
            "medium",
            *(locale.datetime_skeletons[s].pattern for s in SKELETONS if s in locale.datetime_skeletons),
        ):
            for day in days[::7]:
                text = " ".join(format_date(day, pattern, locale).replace("\u200e", "").replace("\u200f", "").split())
                if text in texts:
                    found += 1
                    assert texts[text] == day.isoformat()
    assert found > 20


def test_numbers_whose_order_depends_on_the_country_do_not_occur(splits):
    for examples in splits.values():
        for example in examples:
            parts = example["source"].split("/")
            if len(parts) == 3 and len(parts[2]) == 4:
                first, second = int(parts[0]), int(parts[1])
                assert first > 12 or second > 12 or first == second, example


def test_forty_languages_and_many_scripts_occur(splits):
    assert len(LANGUAGES) >= 40
    letters = {character for example in splits["train"] for character in example["source"]}
    for script in ("ж", "ש", "日", "월", "ί", "ी"):
        assert script in letters, script


def test_a_year_in_french_holds_the_way_people_write_it():
    # One date in ten is held out; which, depends on the seed.
    french = Dates(languages=("fr",), first_year=2026, last_year=2026, train_examples=1_000)
    pairs = {(e["source"], e["target"]) for e in french.examples("train")}
    assert ("12 mars 2026", "2026-03-12") in pairs
    assert any(source == "jeudi 5 mars 2026" or source.startswith("jeudi ") for source, _ in pairs)


def test_the_same_fields_give_the_same_examples_and_others_do_not():
    small = Dates(train_examples=50)
    assert list(small.examples("train")) == list(small.examples("train"))
    assert list(small.examples("train")) != list(replace(small, seed=1).examples("train"))
    assert small.fingerprint("train") != replace(small, seed=1).fingerprint("train")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"languages": ("frr",)}, "did you mean fr"),
        ({"first_year": 2030, "last_year": 2020}, "first_year 2030 is after last_year 2020"),
        ({"last_year": 10_000}, "last_year must be at most 9999, not 10000"),
        ({"train_examples": 0}, "train_examples must be at least 1, not 0"),
        ({"first_year": 2026, "last_year": 2026, "languages": ("ja",), "train_examples": 100_000}, "lower data.source"),
    ],
)
def test_fields_that_make_no_examples_are_refused(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        list(Dates(**fields).examples("train"))
    assert "\n" not in str(error.value)


def everything(**fields) -> dict[str, list[dict[str, str]]]:
    """All examples that there are of a split; how many, the error says."""
    examples = {}
    for split in Dates().splits:
        count = 10**9
        while split not in examples:
            try:
                examples[split] = list(replace(Dates(**fields), **{f"{split}_examples": count}).examples(split))
            except ValueError as error:
                most = int(re.findall(r"at most ([\d,]+)", str(error))[0].replace(",", ""))
                assert most < count
                count = most
        assert len(examples[split]) == count
    return examples


@pytest.fixture(scope="module")
def whole_year():
    return everything(first_year=2028, last_year=2028)


def test_no_text_of_a_whole_leap_year_means_two_dates_however_it_is_dotted(whole_year):
    meanings = {}
    for example in itertools.chain(*whole_year.values()):
        text = example["source"]
        read = " ".join(re.sub(r"(?<!\d)0", "", text).casefold().replace(".", " ").replace(",", " ").split())
        for key in (text, read):
            assert meanings.setdefault(key, example["target"]) == example["target"], text
        assert re.findall(r"\d{3,}", text) == ["2028"]  # the year is known from the text, so one year is enough
    full = {language: format_date(date(2028, 10, 17), "full", language) for language in LANGUAGES}
    languages = {language for language, text in full.items() if " ".join(text.split()) in meanings}
    assert len(languages) >= 40


def test_month_names_that_two_languages_use_for_two_months_do_not_occur(whole_year):
    texts = {example["source"] for example in itertools.chain(*whole_year.values())}
    assert "14 lip 2028" not in texts and "14. lip 2028." not in texts  # July in Polish, June in Croatian
    assert "4 listopada 2028" not in texts and "4. listopada 2028." not in texts  # November and October
    assert "14 sierpnia 2028" in texts and "14. kolovoza 2028." in texts


def test_fewer_languages_have_fewer_meanings_and_not_others(whole_year):
    texts = {(e["source"], e["target"]) for e in itertools.chain(*whole_year.values())}
    for languages in (("en",), ("pl", "pl"), ("hr", "fr")):
        fewer = everything(languages=languages, first_year=2028, last_year=2028)
        assert {(e["source"], e["target"]) for e in itertools.chain(*fewer.values())} < texts


def test_the_split_of_a_date_depends_on_the_date_and_the_seed_alone():
    def dates(split, **fields):
        return {e["target"] for e in everything(languages=("fr",), **fields)[split]}

    wide = {split: dates(split, first_year=2020, last_year=2025) for split in Dates().splits}
    narrow = {split: dates(split, first_year=2022, last_year=2023) for split in Dates().splits}
    assert all(narrow[split] < wide[split] for split in wide)
    assert not dates("test", first_year=2020, last_year=2025, seed=1) <= wide["test"]
    shares = [len(wide[split]) / sum(map(len, wide.values())) for split in ("train", "validation", "test")]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.02)


def test_a_date_is_written_in_all_ways_of_french():
    examples = itertools.chain(*everything(languages=("fr",), first_year=2026, last_year=2026).values())
    texts = {e["source"] for e in examples if e["target"] == "2026-03-05"}
    assert {"jeudi 5 mars 2026", "jeu. 5 mars 2026", "5 mars 2026"} <= texts
    assert "05/03/2026" not in texts


@pytest.mark.parametrize("fields", [{"languages": ("xx",)}, {"seed": -1}, {"train_examples": 10**9}])
def test_bad_fields_are_refused_before_the_first_example(fields):
    with pytest.raises(ValueError, match="data.source"):
        Dates(**fields).examples("train")
