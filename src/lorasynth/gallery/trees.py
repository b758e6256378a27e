"""Where files of pictures lie: a folder, or a ZIP archive that is read where it lies. Nothing is extracted."""

import os
import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from lorasynth.errors import PhotoError, UsageError

MAX_FILE_MB = 64
MAX_RATIO = 100
"""Times of its packed size that a large file of an archive may have; pictures are packed already."""
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
TABLES = ("metadata.jsonl", "metadata.csv")
_LARGE = 1_000_000
_DROPPINGS = ("thumbs.db", "desktop.ini", "__macosx")


@runtime_checkable
class Tree(Protocol):
    """Named files. Names are relative, with slashes, and in an order that is the same everywhere."""

    name: str

    def files(self) -> dict[str, int]:
        """Size in bytes of each regular file."""
        ...

    def read(self, file: str) -> bytes:
        """A file's bytes.

        Raises:
            PhotoError: it cannot be read, or is too large.
        """
        ...


class FolderTree:
    """Files below a folder. Links are followed. A folder is entered once."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.resolve().name

    def files(self) -> dict[str, int]:
        """Size in bytes of each regular file.

        Raises:
            UsageError: a folder cannot be read.
        """
        found: dict[str, int] = {}
        entered: set[tuple[int, int]] = set()
        waiting = [(self.folder, PurePosixPath())]
        while waiting:
            folder, place = waiting.pop()
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in entered:
                    continue
                entered.add((status.st_dev, status.st_ino))
                entries = list(os.scandir(folder))
            except OSError as error:
                raise UsageError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from None
            for entry in entries:
                self._add(entry, place, found, waiting)
        return dict(sorted(found.items()))

    def _add(
        self,
        entry: "os.DirEntry[str]",
        place: PurePosixPath,
        found: dict[str, int],
        waiting: list[tuple[Path, PurePosixPath]],
    ) -> None:
        if _is_dropping(entry.name):
            return
        try:
            status = entry.stat()
        except OSError:  # a link that leads nowhere: `read` says so
            found[str(place / entry.name)] = 0
            return
        if stat.S_ISDIR(status.st_mode):
            waiting.append((Path(entry.path), place / entry.name))
        else:
            found[str(place / entry.name)] = status.st_size

    def read(self, file: str) -> bytes:
        """A regular file's bytes. Nothing else is opened, for a pipe would wait for ever.

        Raises:
            PhotoError: it cannot be read, or is too large.
        """
        path = self.folder / file
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise PhotoError(f"{file}: expected a regular file, got something else; leave it out")
            with path.open("rb") as opened:
                return _limited(file, opened.read(MAX_FILE_MB * 1_000_000 + 1))
        except OSError as error:
            raise PhotoError(f"{file}: cannot be read ({error.strerror}); check it and its permissions") from None


class ZipTree:
    """Files of a ZIP archive. One folder around everything counts as the archive itself."""

    def __init__(self, path: Path):
        """Read the archive's table of contents.

        Raises:
            UsageError: it is no ZIP archive, is encrypted, names a file twice or outside of it, or is a bomb.
        """
        self.path, self.name = path, path.stem
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise UsageError(f"{path}: expected a ZIP archive, got none ({error}); get the file again") from None
        entries: dict[str, zipfile.ZipInfo] = {}
        for info in self._archive.infolist():
            self._check(info)
            if info.is_dir() or any(map(_is_dropping, info.filename.split("/"))):
                continue
            if info.filename in entries:
                raise UsageError(f"{path}: expected each name once, got {info.filename!a:.80} twice; pack it again")
            entries[info.filename] = info
        around = _around(list(entries))
        self._entries = dict(sorted((name.removeprefix(around), info) for name, info in entries.items()))

    def _check(self, info: zipfile.ZipInfo) -> None:
        name = info.filename
        parts = name.removesuffix("/").split("/")
        if name.startswith("/") or "\\" in name or ":" in parts[0] or {"", ".", ".."} & set(parts):
            raise UsageError(f"{self.path}: expected names within the archive, got {name!a:.80}; pack the folder again")
        if info.flag_bits & 1:
            raise UsageError(f"{self.path}: expected files without a password, got {name!a:.80}; pack it without one")
        if info.file_size > max(_LARGE, MAX_RATIO * info.compress_size):
            raise UsageError(
                f"{self.path}: {name!a:.80} unpacks {info.compress_size} to {info.file_size} bytes, expected at most "
                f"{MAX_RATIO} times as many; pack pictures, not a bomb"
            )

    def files(self) -> dict[str, int]:
        """Size in bytes of each file, unpacked."""
        return {name: info.file_size for name, info in self._entries.items()}

    def read(self, file: str) -> bytes:
        """A file's bytes, unpacked as far as it says it goes.

        Raises:
            PhotoError: it cannot be read, is damaged or too large.
        """
        info = self._entries[file]
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise PhotoError(f"{file}: expected a regular file, got a link or device; leave it out")
        if info.file_size > MAX_FILE_MB * 1_000_000:
            raise PhotoError(f"{file}: expected at most {MAX_FILE_MB} MB, got {info.file_size / 1e6:.0f} MB; shrink it")
        try:
            with self._archive.open(info) as opened:
                return _limited(file, opened.read(MAX_FILE_MB * 1_000_000 + 1))
        except Exception as error:  # the unpackers raise errors of many classes on damaged input
            raise PhotoError(f"{file}: damaged in its archive ({error}); pack it again") from None


def open_tree(path: Path) -> Tree:
    """The files of a folder or ZIP archive.

    Raises:
        UsageError: it is neither.
    """
    if path.is_dir():
        return FolderTree(path)
    if path.is_file():
        if path.suffix.lower() != ".zip" and not zipfile.is_zipfile(path):
            raise UsageError(f"{path}: expected a folder of photos or a .zip of one, got another file; give its folder")
        return ZipTree(path)
    raise UsageError(f"{path}: expected a folder of photos or a .zip of one, got nothing there; check the path")


def _is_dropping(name: str) -> bool:
    """Whether an operating system left a file, or it is hidden."""
    return name.startswith(".") or name.lower() in _DROPPINGS


def _limited(file: str, content: bytes) -> bytes:
    if len(content) > MAX_FILE_MB * 1_000_000:
        raise PhotoError(f"{file}: expected at most {MAX_FILE_MB} MB, got more; shrink it")
    return content


def _around(names: list[str]) -> str:
    """The folder, with its slash, that everything lies in, if it is no subject's: no picture or a table lies in it directly."""
    tops = {name.partition("/")[0] for name in names}
    directly = [name.lower() for name in names if name.count("/") == 1]
    pictures = any(name.endswith(PICTURES) for name in directly)
    tables = any(name.endswith(TABLES) for name in directly)
    deeper = any(name.count("/") > 1 for name in names)
    return f"{tops.pop()}/" if len(tops) == 1 and (tables or (deeper and not pictures)) else ""
