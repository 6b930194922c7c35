"""Log messages of the modules while a command runs, such as the attention kernel that they chose."""

import logging


class _Print(logging.Handler):
    """Prints to the standard output of the time."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), flush=True)


def show_log() -> None:
    """Prints messages of level INFO and above from now on."""
    log = logging.getLogger("transformer_jax")
    if not any(isinstance(handler, _Print) for handler in log.handlers):
        log.addHandler(_Print())
        log.setLevel(logging.INFO)
        log.propagate = False  # libtpu gives the root a handler of its own
