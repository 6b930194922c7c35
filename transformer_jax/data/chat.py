"""Chat templates of published tokenizers: from what was said, by whom, to the text that the model continues.

A template is a program of whoever published it. It runs in Jinja's sandbox, in a process of its own without more than
a few seconds and some memory.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence

Message = Mapping[str, str]
"""`role` (system, user or assistant) and `content`."""
SECONDS, BYTES, LONGEST, AT_ONCE = 5, 2**29, 2**22, 64
PROGRAM = """
import datetime, json, sys
seconds, memory, longest = map(int, sys.argv[1:])
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
except (ImportError, OSError, ValueError):
    sys.exit("its limits of time and memory need Linux")
try:
    import jinja2, jinja2.ext, jinja2.sandbox
except ImportError:
    sys.exit("it needs jinja2, which the extra chat installs")

class Generation(jinja2.ext.Extension):  # marks what an assistant says; the text stays
    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)

def refuse(message):
    raise jinja2.TemplateError(message)

def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    options = {"ensure_ascii": ensure_ascii, "indent": indent, "separators": separators, "sort_keys": sort_keys}
    return json.dumps(value, **options)

given = json.load(sys.stdin)
options = {"trim_blocks": True, "lstrip_blocks": True, "extensions": [jinja2.ext.loopcontrols, Generation]}
environment = jinja2.sandbox.ImmutableSandboxedEnvironment(**options)
environment.filters["tojson"] = to_json
environment.globals["raise_exception"] = refuse
environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
try:
    template = environment.from_string(given["template"])
    texts = [template.render(messages=messages, **given["names"]) for messages in given["conversations"]]
except Exception as error:
    sys.exit(ascii(f"{type(error).__name__}: {error}"[:500])[1:-1])
if max(map(len, texts), default=0) > longest:
    sys.exit(f"it makes a text of more than {longest:,} characters")
json.dump(texts, sys.stdout)
"""


def render(template: str, names: Mapping[str, str], conversations: Sequence[Sequence[Message]]) -> list[str]:
    """The text of every conversation, up to where the assistant answers; `names` are those of special tokens.

    Raises ValueError for a template that cannot be rendered, or not within a few seconds.
    """
    for messages in conversations:
        if isinstance(messages, Mapping) or not all(isinstance(message, Mapping) for message in messages):
            raise ValueError("a conversation is a list of messages, each with role and content; give a list of these")
    texts: list[str] = []
    for start in range(0, max(len(conversations), 1), AT_ONCE):
        texts += _rendered(template, names, conversations[start : start + AT_ONCE])
    return texts


def _rendered(template: str, names: Mapping[str, str], conversations: Sequence[Sequence[Message]]) -> list[str]:
    others = {"add_generation_prompt": True, "tools": None, "documents": None}
    given = {"template": template, "conversations": [*map(list, conversations)], "names": {**names, **others}}
    command = [sys.executable, "-I", "-c", PROGRAM, *map(str, (SECONDS, BYTES, LONGEST))]
    try:
        done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=4 * SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError(f"the chat template takes more than {4 * SECONDS} seconds") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"it takes more than {SECONDS} seconds or its memory"])[-1]
        raise ValueError(f"the chat template cannot be rendered: {reason}")
    return json.loads(done.stdout)
