"""Makes the line-aligned files of WMT 2014 English-German or English-French that experiments/paper/wmt14.py reads.

    python launch/wmt14.py DIRECTORY [--language fr]

Archives that are not in DIRECTORY are downloaded from statmt.org; each must have the SHA-256 that TensorFlow Datasets
publishes for it. Written are train.en and train.de, the training corpora one behind another as they are, newstest2013.*
and newstest2014.*. Nothing is tokenised, lower-cased or filtered: that is the experiment's. The archives of
German have 1.7 GB, those of French 6.7. Needs Python alone.
"""

import argparse
import gzip
import hashlib
import html
import re
import shutil
import sys
import tarfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Archive:
    """A file of statmt.org."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


EUROPARL = Archive(
    "https://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz",
    "0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7",
)
COMMON_CRAWL = Archive(
    "https://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz",
    "c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5",
)
NEWS_COMMENTARY = Archive(
    "https://www.statmt.org/wmt14/training-parallel-nc-v9.tgz",
    "cb8953f292298e6877ae433c98912b927cb0766b303f4540512ddd286c748485",
)
UNITED_NATIONS = Archive(
    "https://www.statmt.org/wmt13/training-parallel-un.tgz",
    "29141b5c1eba149a94f7a59d3b1a834b2e47fe0f8758d68dcd77a3d3f497ee47",
)
GIGA = Archive(
    "https://www.statmt.org/wmt10/training-giga-fren.tar",
    "3ff8319f6919393520559bfbc7ad6a747ec81b3abc7be9993b338d4b017b4d9a",
)
DEVELOPMENT = Archive(
    "https://data.statmt.org/wmt19/translation-task/dev.tgz",
    "7a7deccf82ebb05ba508dba5eb21356492224e8f630ec4f992132b029b4b25e7",
)
OF_ALL = {
    EUROPARL: "europarl-v7.{of}-en.{side}",
    COMMON_CRAWL: "commoncrawl.{of}-en.{side}",
    NEWS_COMMENTARY: "news-commentary-v9.{of}-en.{side}",
}
TRAINING: Mapping[str, Mapping[Archive, str]] = {
    "de": OF_ALL,
    "fr": OF_ALL | {UNITED_NATIONS: "undoc.2000.{of}-en.{side}", GIGA: "giga-fren.release2.fixed.{side}.gz"},
}
"""The file of each side in the archives of a language, the folder left out."""
HELD_OUT = {
    "newstest2013": ("newstest2013.en", "newstest2013.{of}"),
    "newstest2014": ("newstest2014-{of}en-ref.en.sgm", "newstest2014-{of}en-src.{of}.sgm"),
}
"""The English file and the other one in `DEVELOPMENT`. The test set has as many sentences from either language."""
SEGMENT = re.compile(r"<seg[^>]*>(.*)</seg>")


def main() -> None:
    """Makes the files of one language."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="of the archives and of what is made")
    parser.add_argument("--language", choices=TRAINING, default="de", help="beside English; default: de")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    try:
        make(options.directory, options.language)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def make(directory: Path, of: str) -> None:
    """Makes the files of English and the language `of`; ValueError for an archive that is not the published one."""
    corpora, sides = TRAINING[of], ("en", of)
    for archive in (*corpora, DEVELOPMENT):
        fetch(archive, directory)
    training = [(archive, [name.format(of=of, side=side) for side in sides]) for archive, name in corpora.items()]
    held_out = {split: [(DEVELOPMENT, [name.format(of=of) for name in names])] for split, names in HELD_OUT.items()}
    for split, archives in {"train": training, **held_out}.items():
        paths = [directory / f"{split}.{side}" for side in sides]
        with written(paths[0]) as english, written(paths[1]) as other:
            lines = [extract(directory / archive.name, names, (english, other)) for archive, names in archives]
        print(f"{paths[0]} and .{of}: {sum(lines):,} lines", flush=True)


def fetch(archive: Archive, directory: Path) -> None:
    """Downloads the archive if it is not there; ValueError unless it is the published one."""
    path = directory / archive.name
    if not path.exists():
        print(f"downloading {archive.url}", flush=True)
        with urllib.request.urlopen(archive.url) as response, written(path) as out:
            shutil.copyfileobj(response, out, 2**20)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != archive.sha256:
        raise ValueError(f"{path} has the SHA-256 {found}, not {archive.sha256}; remove it to download it again")


def extract(archive: Path, names: Sequence[str], outs: Sequence[IO[bytes]]) -> int:
    """Writes the lines of files of the archive; returns how many each has.

    Raises ValueError for an archive without one of them, and for files that are not aligned.
    """
    out_of, lines = dict(zip(names, outs, strict=True)), dict[str, int]()
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            name = Path(member.name).name
            if name in out_of and (file := tar.extractfile(member)):
                lines[name] = 0
                for line in lines_of(name, file):
                    out_of[name].write(line if line.endswith(b"\n") else line + b"\n")
                    lines[name] += 1
    if len(lines) != len(names) or len({*lines.values()}) != 1:
        raise ValueError(f"{archive} does not have the same number of lines in {' and '.join(names)}: {lines}")
    return lines[names[0]]


def lines_of(name: str, file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file of this name, of SGML the segments."""
    if name.endswith(".gz"):
        with gzip.open(file) as plain:
            yield from plain
    elif name.endswith(".sgm"):
        segments = (SEGMENT.search(line.decode()) for line in file)
        yield from (html.unescape(found[1]).strip().encode() for found in segments if found)
    else:
        yield from file


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file that has another name until all of it is written."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as out:
        yield out
    partial.replace(path)


if __name__ == "__main__":
    main()
