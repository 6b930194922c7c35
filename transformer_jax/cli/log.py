"""What the modules have to say while a command runs, such as which attention kernel they chose."""

import logging


class _Print(logging.Handler):
    """To what standard output is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), flush=True)


def show_log() -> None:
    """Prints messages of level INFO and above from now on."""
    log = logging.getLogger("transformer_jax")
    if not any(isinstance(handler, _Print) for handler in log.handlers):
        log.addHandler(_Print())
        log.setLevel(logging.INFO)
        log.propagate = False  # libtpu gives the root a handler of its own
