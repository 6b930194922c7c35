"""Renders chat templates: `python -I chat_program.py LONGEST`, as `chat.py` runs it in a process with limits.

A request comes on stdin and the texts go to stdout, both as JSON. Of this package nothing is imported.
"""

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any


def main() -> None:
    """Reads a request and writes the texts; ends with a message where that cannot be."""
    longest = int(sys.argv[1])
    try:
        texts = rendered(json.load(sys.stdin))
    except ImportError:
        sys.exit("it needs jinja2, which the extra chat installs")
    except Exception as error:
        sys.exit(ascii(f"{type(error).__name__}: {error}"[:500])[1:-1])
    if max(map(len, texts), default=0) > longest:
        sys.exit(f"it makes a text of more than {longest:,} characters")
    json.dump(texts, sys.stdout)


def rendered(request: Mapping[str, Any]) -> list[str]:
    """The text of every conversation of a request."""
    template = environment().from_string(request["template"])
    return [template.render(messages=messages, **request["names"]) for messages in request["conversations"]]


def environment() -> Any:
    """Jinja's sandbox with what templates of `transformers` may use."""
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """Passes over the marks of what an assistant says; the text between them stays."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True}
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(extensions=[jinja2.ext.loopcontrols, Generation], **options)
    made.filters["tojson"] = to_json
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


def to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as it is, where Jinja's own filter escapes what HTML does not bear."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


if __name__ == "__main__":
    main()
