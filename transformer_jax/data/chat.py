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
SECONDS, BYTES, LONGEST = 5, 2**29, 2**22
PROGRAM = """
import datetime, json, resource, sys
seconds, memory, longest = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
try:
    import jinja2, jinja2.ext, jinja2.sandbox
except ImportError:
    sys.exit("it needs jinja2, which the extra chat installs")

def refuse(message):
    raise jinja2.TemplateError(message)

given = json.load(sys.stdin)
options = {"trim_blocks": True, "lstrip_blocks": True, "extensions": [jinja2.ext.loopcontrols]}
environment = jinja2.sandbox.ImmutableSandboxedEnvironment(**options)
environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
environment.globals["raise_exception"] = refuse
environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
try:
    template = environment.from_string(given["template"])
    texts = [template.render(messages=messages, **given["names"]) for messages in given["conversations"]]
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}"[:500])
if sum(map(len, texts)) > longest:
    sys.exit(f"it makes a text of more than {longest:,} characters")
json.dump(texts, sys.stdout)
"""


def render(template: str, names: Mapping[str, str], conversations: Sequence[Sequence[Message]]) -> list[str]:
    """The text of every conversation, up to where the assistant answers; `names` are those of special tokens.

    Raises ValueError for a template that cannot be rendered, or not within a few seconds.
    """
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
