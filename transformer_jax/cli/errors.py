"""Exit statuses of the command: 0 success, 2 the user's mistake, 1 a failed run, 130 and 143 interrupted."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator

LONGEST = 4_000
"""Letters of a message; what is longer is cut off."""


class UserError(Exception):
    """A mistake of the user, as one line that says what to do."""


@contextlib.contextmanager
def user_input() -> Iterator[None]:
    """Turns ValueError, OverflowError, MemoryError and OSError of what reads and checks input into UserError.

    An error that is raised outside is a failed run.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except (ValueError, OverflowError, MemoryError, OSError) as error:
        raise UserError(one_line(error)) from error


def exit_status(verb: Callable[[], None]) -> int:
    """Calls `verb`; returns the exit status, after saying on stderr what went wrong."""
    try:
        verb()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader, such as head, has enough. Python flushes once more at exit, which then must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not isinstance(error, OSError):
            traceback.print_exc()
        print(f"failed: {type(error).__name__}: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


def one_line(error: BaseException) -> str:
    """The message of an error on one line, cut to `LONGEST`; what cannot be printed, such as escapes, is replaced."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.strerror}: {error.filename}"
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text[:LONGEST])
