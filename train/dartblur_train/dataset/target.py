"""The folder of an anonymized copy: whose it is, what of it is finished, and its manifest."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..data.problems import DataError
from .plan import MANIFEST

JOURNAL = ".dartblur-dataset.jsonl"
"""What is finished, a line each, until the manifest takes its place."""

PARTIAL = ".partial"


def check_places(source: Path, target: Path) -> None:
    """Refuses a copy in, around or over its source; links are seen through."""
    if not source.is_dir():
        raise DataError(f"{source}: expected the folder of a data set, nothing is there")
    inner, outer = target.resolve(), source.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise DataError(f"{target}: expected a folder apart from {source}: choose one beside it")


def partial(file: Path) -> Path:
    """The name under which a file is written before it takes its own; another one in each process."""
    # A file name has at most 255 bytes.
    return file.with_name(f".{file.name[:40]}.{os.getpid()}{PARTIAL}")


def sha256(file: Path) -> str:
    """Of a file, hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Target:
    """Knows which files of the copy are finished; see `open_target`.

    Attributes:
        files: of each finished file its sha256 and what else is known of it.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], sources: Mapping[str, str]) -> None:
        self._folder, self._settings, self._sources = folder, dict(settings), sources
        earlier = self._earlier()
        present = self._present({*sources, *earlier})
        self.files = {
            name: entry
            for name, entry in earlier.items()
            if name in present and sources.get(name) == entry["source"] and sha256(folder / name) == entry["sha256"]
        }
        # What is not finished goes before anything else is done: if it fails this time, the old one must not stay.
        for name in present - set(self.files):
            (folder / name).unlink()
        lines = [{"settings": self._settings}, *({"name": name, **entry} for name, entry in self.files.items())]
        self._write(JOURNAL, "".join(json.dumps(line) + "\n" for line in lines))
        (folder / MANIFEST).unlink(missing_ok=True)
        self._journal = (folder / JOURNAL).open("a")

    def add(self, name: str, digest: str, **known: Any) -> None:
        """Notes that a file is finished."""
        self.files[name] = {"sha256": digest, "source": self._sources[name], **known}
        self._journal.write(json.dumps({"name": name, **self.files[name]}) + "\n")
        self._journal.flush()

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Writes the manifest: settings, `manifest` and the files."""
        files = dict(sorted(self.files.items()))
        content = {"settings": self._settings, **manifest, "files": files}
        self._write(MANIFEST, json.dumps(content, indent=1) + "\n")
        (self._folder / JOURNAL).unlink()

    def close(self) -> None:
        """Ends the journal."""
        self._journal.close()

    def _write(self, name: str, text: str) -> None:
        pending = partial(self._folder / name)
        with pending.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        pending.replace(self._folder / name)

    def _earlier(self) -> dict[str, Any]:
        """The files that an earlier run has finished; raises `DataError` if it had other settings."""
        journal, manifest = self._folder / JOURNAL, self._folder / MANIFEST
        try:
            if journal.is_file():
                settings, files = _read_journal(journal)
            elif manifest.is_file():
                content = json.loads(manifest.read_text())
                settings, files = dict(content["settings"]), dict(content["files"])
            else:
                return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self._folder}: expected a copy of this tool, got {error!r:.80}: choose another folder"
            ) from error
        for key in {**settings, **self._settings}:
            if settings.get(key) != self._settings.get(key):
                raise DataError(
                    f"{self._folder}: it was begun with {key} {settings.get(key)}, now {self._settings.get(key)} is "
                    "asked for: repeat the first settings, or choose another folder"
                )
        return files

    def _present(self, ours: set[str]) -> set[str]:
        """The files that are there; raises `DataError` for one that no run of this command has written."""
        begun = any((self._folder / name).is_file() for name in (JOURNAL, MANIFEST))
        present, pending = set(), []
        for folder, folders, files in os.walk(self._folder):
            for path in (Path(folder, name) for name in [*files, *folders]):
                name = path.relative_to(self._folder).as_posix()
                link = path.is_symlink()  # also one to a folder: what is written there would land elsewhere
                if path.name.startswith("." if begun else f".{JOURNAL}") and path.name.endswith(PARTIAL) and not link:
                    pending.append(path)
                elif begun and name in ours and not link:
                    present.add(name)
                elif link or not (path.is_dir() or (begun and name in (JOURNAL, MANIFEST))):
                    raise DataError(
                        f"{self._folder}: expected an empty folder, or a copy that this command has begun, got {name}: "
                        "choose another folder"
                    )
        for path in pending:
            path.unlink()
        return present


def _read_journal(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    lines = file.read_text().splitlines()
    settings: dict[str, Any] = json.loads(lines[0])["settings"] if lines else {}
    files = {}
    for line in lines[1:]:
        try:
            entry = json.loads(line)
            files[entry.pop("name")] = entry
        except ValueError:
            break  # the run was killed while it wrote this line
    return settings, files


@contextmanager
def open_target(folder: Path, settings: Mapping[str, Any], sources: Mapping[str, str]) -> Iterator[Target]:
    """The folder of a copy, made if it isn't there, for this process alone.

    Args:
        folder: where to.
        settings: all that the files depend on, but for their sources.
        sources: fingerprints of the sources, by the names of the files to be written.

    Raises:
        DataError: it holds other files, a copy with other settings, or another run is writing into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise DataError(f"{folder}: expected a folder that can be written to, got {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{folder}: another run is writing into it: wait for its end") from error
        target = Target(folder, settings, sources)
        try:
            yield target
        finally:
            target.close()
    finally:
        os.close(lock)
