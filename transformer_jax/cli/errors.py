"""Exit statuses of the command: 0 success, 2 the user's mistake, 1 a failed run, 130 and 143 interrupted."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator

from transformer_jax.data.lines import one_line


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
