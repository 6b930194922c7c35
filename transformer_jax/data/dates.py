"""Dates as people write them in many languages, to ISO 8601: a corpus for everyone, with no download."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from transformer_jax.data.fields import check_ranges
from transformer_jax.data.nearest import did_you_mean
from transformer_jax.data.sources import Example, Source, check_split, digest_files

# fmt: off
LANGUAGES = (
    "af", "bg", "bs", "ca", "cs", "cy", "da", "de", "el", "en", "en_GB", "es", "et", "eu", "fi", "fr", "ga",
    "gl", "he", "hi", "hr", "hu", "hy", "id", "is", "it", "ja", "ka", "ko", "lt", "lv", "mk", "ms", "nb",
    "nl", "pl", "pt", "ro", "ru", "sk", "sl", "sq", "sv", "sw", "tr", "uk", "vi", "zh",
)
# fmt: on
"""CLDR locales."""
SKELETONS = ("yMMMd", "yMMMMd", "yMd", "yMMMEd", "yMMMMEEEEd")
YEAR, SHORT_WEEKDAY, LONG_WEEKDAY = "\x01", "\x02", "\x03"
"""Placeholders in templates."""
HELD_OUT = 0.05
VERSION = 2
"""A part of the fingerprint, to be raised when the examples change."""

Templates = dict[tuple[int, int], str]
"""For each (month, day) its text with placeholders for year and weekday."""
Weekdays = dict[str, dict[int, str]]
"""For each placeholder the names of the weekdays."""


@dataclass(frozen=True)
class Dates(Source):
    """ "jeudi 5 mars 2026" to "2026-03-05", in the ways of every language, from the CLDR data in Babel.

    No date occurs in two splits, and no text can mean two dates: one that could ("05/03/2026") is left out.
    """

    languages: tuple[str, ...] = ()
    """CLDR locales such as fr; empty: all of LANGUAGES."""
    first_year: Annotated[int, Ge(1000)] = 1900
    """The earliest year."""
    last_year: Annotated[int, Le(9999)] = 2099
    """The latest year."""
    train_examples: Annotated[int, Ge(1)] = 100_000
    """Examples to learn from."""
    validation_examples: Annotated[int, Ge(1)] = 1_000
    """Examples for validation."""
    test_examples: Annotated[int, Ge(1)] = 2_000
    """Examples for the final score."""
    seed: Annotated[int, Ge(0)] = 0
    """Random seed of dates, languages and ways of writing."""

    def examples(self, split: str) -> Iterator[Example]:
        """The examples of a split, each text once; ValueError for bad fields and for more examples than exist."""
        self._check(split)
        days = self._days(split)
        ways = [way for language in dict.fromkeys(self.languages or LANGUAGES) for way in _ways_of(language)]
        self._check_count(split, len(days) * len(ways))
        return self._draw(split, days, ways)

    def fingerprint(self, split: str) -> str:
        import babel

        return digest_files([], (self, split, babel.__version__, VERSION))

    def _draw(self, split: str, days: np.ndarray, ways: list[tuple[Templates, Weekdays]]) -> Iterator[Example]:
        """Each date in one random way, then each in another, until every pair of date and way has come up once."""
        random = np.random.Generator(np.random.Philox([self.seed, self.splits.index(split)]))
        ambiguous = _ambiguous()
        order, offsets = random.permutation(len(ways)), random.integers(len(ways), size=len(days))
        seen: set[str] = set()
        for turn in range(len(ways)):
            for i in random.permutation(len(days)):
                day = date.fromordinal(int(days[i]))
                templates, weekdays = ways[order[(offsets[i] + turn) % len(ways)]]
                template = _with_weekday(templates[day.month, day.day], weekdays, day.weekday())
                text = template.replace(YEAR, str(day.year))
                if _as_read(template) in ambiguous or text in seen:
                    continue
                seen.add(text)
                yield {"source": text, "target": day.isoformat()}
                if len(seen) == getattr(self, f"{split}_examples"):
                    return
        self._check_count(split, len(seen))

    def _check_count(self, split: str, most: int) -> None:
        if (count := getattr(self, f"{split}_examples")) > most:
            field = f"data.source.{split}_examples"
            raise ValueError(f"there are at most {most:,} {split} examples, not {count:,}; lower {field}")

    def _check(self, split: str) -> None:
        check_ranges(self, "data.source")
        check_split(self, split)
        for language in self.languages:
            if language not in LANGUAGES:
                hint = did_you_mean(language, LANGUAGES) or f"; known: {' '.join(LANGUAGES)}"
                raise ValueError(f"unknown language {language!r} in data.source.languages{hint}")
        if self.first_year > self.last_year:
            raise ValueError(f"data.source.first_year {self.first_year} is after last_year {self.last_year}")

    def _days(self, split: str) -> np.ndarray:
        """The ordinals of the split's dates; the split of a date depends on the date and the seed alone."""
        first, last = date(self.first_year, 1, 1).toordinal(), date(self.last_year, 12, 31).toordinal()
        random = np.random.Generator(np.random.Philox([self.seed, len(self.splits)]))
        place = random.random(last + 1)[first:] / HELD_OUT
        chosen = {"validation": place < 1, "test": (place >= 1) & (place < 2), "train": place >= 2}[split]
        return first + np.flatnonzero(chosen)


@functools.cache
def _ways_of(language: str) -> list[tuple[Templates, Weekdays]]:
    """The ways in which CLDR writes dates in a language."""
    from babel import Locale
    from babel.dates import format_date

    locale = Locale.parse(language)
    patterns = [locale.date_formats[length].pattern for length in ("full", "long", "medium", "short")]
    patterns += [locale.datetime_skeletons[name].pattern for name in SKELETONS if name in locale.datetime_skeletons]
    days = locale.days["format"]
    names = {SHORT_WEEKDAY: days["abbreviated"], LONG_WEEKDAY: days["wide"]}
    weekdays = {where: {day: _plain(name) for day, name in each.items()} for where, each in names.items()}
    leap_year = [date(2024, 1, 1) + timedelta(days) for days in range(366)]
    return [
        ({(day.month, day.day): _plain(format_date(day, pattern, locale)) for day in leap_year}, weekdays)
        for pattern in sorted({_with_placeholders(pattern) for pattern in patterns if "G" not in pattern})
    ]


def _with_placeholders(pattern: str) -> str:
    """A CLDR pattern that writes placeholders for year and weekday; its quoted parts are kept."""
    parts = pattern.split("'")
    for i in range(0, len(parts), 2):
        parts[i] = re.sub("(?<![Ec])[Ec]{1,3}(?![Ec])", f"'{SHORT_WEEKDAY}'", parts[i])
        parts[i] = re.sub("y+", f"'{YEAR}'", re.sub("EEEE|cccc", f"'{LONG_WEEKDAY}'", parts[i]))
    return "'".join(parts).replace("''", "")


def _plain(text: str) -> str:
    """The text as a person types it: plain spaces, no marks of direction."""
    return re.sub(r"\s+", " ", re.sub("[\u200e\u200f\u061c]", "", text)).strip()


def _as_read(text: str) -> str:
    """A text without what means nothing to a reader: letter case, dots, commas, zeros before a number."""
    return " ".join(re.sub(r"\b0+(?=\d)", "", re.sub("[.,]", " ", text.casefold())).split())


def _with_weekday(template: str, weekdays: Weekdays, weekday: int) -> str:
    for placeholder, names in weekdays.items():
        template = template.replace(placeholder, names[weekday])
    return template


@functools.cache
def _ambiguous() -> frozenset[str]:
    """Texts, with a placeholder for the year, that mean different days in some languages.

    All languages count, so that fewer languages have fewer meanings and not others. The year is a text's only number of
    four digits, so that equal texts have equal years and are equal here too. The weekday is written out, with all
    seven names for every day: that covers every year, and a weekday that is spelt like a month ("mar").
    """
    meanings: dict[str, tuple[int, int]] = {}
    ambiguous = set()
    for language in LANGUAGES:
        for templates, weekdays in _ways_of(language):
            for day, template in templates.items():
                for weekday in range(7) if any(name in template for name in weekdays) else (0,):
                    text = _as_read(_with_weekday(template, weekdays, weekday))
                    if meanings.setdefault(text, day) != day:
                        ambiguous.add(text)
    return frozenset(ambiguous)
