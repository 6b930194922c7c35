"""Reads published models with one file changed: `python mutated_files.py ROOT BEGIN END SECONDS EVERY`.

Of every number from BEGIN to END a file below ROOT is changed, by random choices of that number alone, and read with
what stands beside it; every so many are imported and exported as well. Lines of JSON on stdout say what is being read
and how it ended. The process ends at the first file that takes too long or too much memory.
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.interop.gguf_files import write_published_gguf
from transformer_jax.interop.published import open_published
from transformer_jax.runs.exporting import export_run
from transformer_jax.runs.importing import import_run
from transformer_jax.runs.published_run import experiment_for

HOSTILE = [None, True, -1, 0, 10**12, -(2**63), 1e400, float("nan"), 0.5, "", "x" * 9_999, "../..", "\ud800", " "]
HOSTILE += [[], {}, [[[]]], {"": 1}]
MEMORY = 4 * 2**30
"""Bytes that reading may take."""


def hostile(value, generator):
    """JSON with one value replaced, doubled, repeated, or left out."""
    if isinstance(value, dict | list) and value and generator.random() < 0.85:
        value = value.copy()
        place = generator.choice([*value] if isinstance(value, dict) else range(len(value)))
        change = generator.random()
        if change < 0.1:
            del value[place]
        elif change < 0.2 and isinstance(value, dict):
            value[f"{place}x"] = value[place]
        elif change < 0.2:
            value[place:place] = [value[place]] * generator.choice([1, 40, 3_000])
        else:
            value[place] = hostile(value[place], generator)
        return value
    return generator.choice(HOSTILE)


def damaged(content, generator):
    """A file with some bytes changed, cut off, repeated or put in; most of them near its beginning."""
    content, reach = bytearray(content), generator.choice([64, 1_000, len(content)])
    for _ in range(generator.choice([1, 1, 3, 20])):
        content[generator.randrange(min(reach, len(content)))] = generator.randrange(256)
    change, place = generator.random(), generator.randrange(len(content))
    if change < 0.2:
        return bytes(content[:place])
    return bytes(content[:place] + content[: generator.randrange(99)] + content[place:]) if change < 0.4 else content


def change(path, generator):
    """Changes a file: its JSON or its bytes, or what it is, a link to elsewhere or one of great length."""
    content, kind = path.read_bytes(), generator.random()
    if kind < 0.02:
        path.unlink()
        path.symlink_to(generator.choice(["/etc/hostname", "/dev/zero", "/", path.name]))
    elif kind < 0.04:
        os.truncate(path, 2**30)
    elif path.suffix == ".json" and kind < 0.7:
        path.write_text(json.dumps(hostile(json.loads(content), generator)))
    else:
        path.write_bytes(damaged(content, generator))


def read(place, *, whole):
    """Everything that an import looks at before it writes, and, of the `whole`, what comes after it."""
    with tempfile.TemporaryDirectory() as folder:
        directory, target = place, Path(folder)
        if place.suffix == ".gguf":
            directory = target / "published"
            write_published_gguf(place, directory)
        _, vocabularies = experiment_for(open_published(directory))
        for vocabulary in vocabularies.values():
            if isinstance(vocabulary, Tokenizer):
                assert vocabulary.decode(vocabulary.encode("the fox")) is not None
        if whole:
            export_run(import_run(directory, target / "run"), target / "exported")


def main():
    root, begin, end, seconds, every = Path(sys.argv[1]), *map(int, sys.argv[2:])
    files = sorted(path for path in root.rglob("*") if path.is_file())
    for model in sorted(root.iterdir()) if begin == 0 else []:  # what is not changed is read
        read(next(model.glob("*.gguf"), model), whole=False)
    (size, _) = Path("/proc/self/statm").read_text().split(maxsplit=1)
    most = int(size) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in range(begin, end):
        generator = random.Random(number)
        path = generator.choice(files)
        model = next(parent for parent in path.parents if parent.parent == root)
        say(number=number, file=str(path.relative_to(root)))
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copytree(model, Path(folder) / "model"))
            change(copy / path.relative_to(model), generator)
            signal.alarm(seconds)
            began, ended = time.monotonic(), "read"
            try:
                read(copy / path.name if path.suffix == ".gguf" else copy, whole=number % every == every - 1)
            except (ValueError, OSError) as error:
                ended = "refused" if str(error) else "no reason"
            except BaseException as error:
                ended = f"{type(error).__name__}: {error}"[:500]
            signal.alarm(0)
        say(number=number, ended=ended, seconds=round(time.monotonic() - began, 2))


def say(**facts):
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
