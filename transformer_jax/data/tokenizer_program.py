"""Reads a tokenizer.json on stdin and uses it: `python -I tokenizer_program.py`, as `tokenizer_json.py` runs it.

The library aborts the process, or never ends, at some files that it is given. Of this package nothing is imported.
"""

import sys

from tokenizers import Tokenizer

TEXT = (
    "".join(map(chr, range(32, 127)))
    + " a text, a\u0301 \u00df \u0130 \u4e2d\u6587 \ufdfa \U0001f999\n\t <s> ##a \u2581a"
)
"""Letters of all kinds, as a rule of the file may make much of one."""


def main() -> None:
    """Ends with a message where the file cannot be used."""
    content = sys.stdin.read()
    try:
        backend = Tokenizer.from_str(content)
        backend.no_truncation()
        backend.no_padding()
        for encoding in (backend.encode(TEXT), backend.encode("a"), backend.encode("a", "a")):
            backend.decode(encoding.ids)
    except BaseException as error:  # it raises nothing narrow, and panics as a BaseException
        sys.exit(ascii(f"{error}"[:500])[1:-1])


if __name__ == "__main__":
    main()
