"""Files beside an experiment's file that it imports: listed without running them, copied to the run."""

import contextlib
import sys
from modulefinder import ModuleFinder
from pathlib import Path

from transformer_jax.data.lines import write_whole

INSTALLED = {"transformer_jax", *sys.stdlib_module_names}
"""Modules that are never taken from a file beside the experiment's."""


def imported_files(file: Path) -> dict[str, Path]:
    """The modules in the file's directory that it imports, directly or through each other, with their files."""
    directory = file.parent.absolute()
    finder = ModuleFinder([str(directory)], excludes=list(INSTALLED))
    with contextlib.suppress(SyntaxError):  # which its execution reports
        finder.run_script(str(file.absolute()))
    places = {name: getattr(module, "__file__", None) for name, module in finder.modules.items() if name != "__main__"}
    # One that cannot be compiled is here, and its import raises the error.
    places |= {name: directory / f"{name.replace('.', '/')}.py" for name in finder.badmodules.keys() - INSTALLED}
    return {name: Path(place) for name, place in places.items() if place and Path(place).is_file()}


def make_importable(file: Path) -> None:
    """Lets the file import those beside it, as `python FILE` does, even if others of their names are loaded."""
    files = imported_files(file)
    for name, place in files.items():
        loaded = getattr(sys.modules.get(name), "__file__", None)
        if loaded is not None and Path(loaded) != place:
            del sys.modules[name]
    directory = str(file.parent.absolute())
    if files and sys.path[0] != directory:
        sys.path.insert(0, directory)


def copy_imported(file: Path, directory: Path, taken: tuple[str, ...]) -> None:
    """Copies the files that `file` imports to a directory; ValueError for names that are `taken` there."""
    here = file.parent.absolute()
    for place in imported_files(file).values():
        relative = place.relative_to(here)
        if relative.parts[0] in taken:
            raise ValueError(f"{file} imports {place}, and a run has a {relative.parts[0]} of its own; rename yours")
        if place != directory.absolute() / relative:
            write_whole(directory / relative, place.read_bytes())
