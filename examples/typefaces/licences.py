"""Licences of fonts by family, from the list that Debian lays beside TeX Live's packages."""

import gzip
from pathlib import Path


def licences_of(path: Path) -> dict[str, str]:
    """Names of licences by TeX package, which is how the folder of a family is called.

    Args:
        path: ``/usr/share/doc/texlive-fonts-extra/Licenses.gz``: lines of ``package: licences``, each before its files.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", errors="replace") as file:
        pairs = (line.strip().partition(": ") for line in file)
        return {name: " ".join(words.split()) for name, colon, words in pairs if colon and "/" not in name}
