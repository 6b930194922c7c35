"""Stops a run by SIGTERM or Ctrl-C at the next step, so that it can save first."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """A signal came during work that can be abandoned."""


class Interrupts:
    """Remembers the first SIGTERM or Ctrl-C while entered; a second Ctrl-C ends the process at once.

    Several processes, which `agree` on a number, all have the `signal` at the same `check`.
    """

    def __init__(self, agree: Callable[[int], int] | None = None) -> None:
        self.signal: int | None = None
        self._agree = agree
        self._received = 0
        self._may_raise = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._old[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self._received = number
        if self._agree is None:
            self.signal = number
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # Not print: the signal may have come in the middle of one.
        os.write(1, b"stopping after this step; Ctrl-C again stops at once\n")
        if self._may_raise and self._agree is None:
            raise Interrupted

    def check(self) -> None:
        """To be called once a step."""
        if self._agree is not None:
            self.signal = self._agree(self._received) or None

    @contextlib.contextmanager
    def giving_up(self) -> Iterator[None]:
        """Inside, a signal raises `Interrupted` at once: for work that changes nothing, such as an evaluation."""
        self._may_raise = True
        try:
            yield
        finally:
            self._may_raise = False
