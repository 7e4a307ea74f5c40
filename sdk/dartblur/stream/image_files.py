"""Pictures: one file, a folder with all that is below it, or a pattern; and the places they go to."""

from __future__ import annotations

import os
import shlex
from collections import deque
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path

from ..errors import SinkError, SourceError
from ..frame import Frame, RedactedFrame
from .base import Sink, Skipped, Source, SourceInfo
from .media import picture
from .media.files import PendingFile, abridged, check_target, reason, remove_leftovers, remove_leftovers_of

VIDEOS = {
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".vob", ".3gp", ".3g2",
    ".wmv", ".asf", ".flv", ".ogv", ".mxf", ".gif",
}  # fmt: skip
"""Suffixes of videos."""

_NAMED = 3
"""Files that are named in a message about many."""

Shelf = deque[tuple[int, picture.Keep]]
"""Numbers of frames, and what their outputs have to keep."""


class ImageSource(Source):
    """Picture files, one frame each.

    A single file that can't be read is an error. Among several it is skipped and listed in `skipped`, and never copied.

    Args:
        uri: what names them.
        paths: the files.
        root: their common folder, whose layout the sink mirrors; None for a single file.
        deep: whether all that is below the root is searched, so that pictures written there would be found next time.
    """

    def __init__(self, uri: str, paths: Sequence[Path], root: Path | None, *, deep: bool = False) -> None:
        super().__init__()
        self.root, self.deep = root, deep
        self.paths = list(paths)
        self.info = SourceInfo(uri=uri, width=0, height=0, frames=len(self.paths), moving=False)
        self._shelves: list[Shelf] = []
        self._done: list[Path] = []

    def __iter__(self) -> Iterator[Frame]:
        """The pictures, upright; `time` is 0.

        Raises:
            SourceError: a single file can't be read.
        """
        for path in self.paths:
            try:
                image, keep = picture.read(path)
            except SourceError as error:
                if self.root is None:
                    raise
                self.skipped.append(Skipped(str(path), str(error)))
                continue
            index = len(self._done)
            self._done.append(path)
            self.losses.update(keep.losses)
            for shelf in self._shelves:
                shelf.append((index, keep))
            yield Frame(image, index)

    @property
    def files(self) -> list[Path]:
        """All picture files."""
        return self.paths

    def name_of(self, index: int) -> str:
        """The file of this frame."""
        return str(self._done[index])

    def shelf(self) -> Shelf:
        """Whoever writes the pictures finds here what their outputs have to keep; ask before the source is read."""
        self._shelves.append(deque())
        return self._shelves[-1]


class ImageSink(Sink):
    """Writes pictures: one file to a file, several into a folder with the layout of their source.

    Every picture is written whole or not at all. When a run over a folder fails, those that were done stay. What stands
    in for a picture that couldn't be anonymized is opaque, and carries no notes of it.

    Args:
        path: a file for a single picture, otherwise a folder, which is made if need be.
        source: the pictures that the frames come from.
        overwrite: whether the output files may exist.
        metadata: whether the notes of the source (EXIF) are kept.
        folder: whether the path means a folder, for a single picture too; it is made if need be.

    Raises:
        SinkError: existing, unwritable, inside the source folder, or of another format than its source.
    """

    def __init__(
        self,
        path: Path,
        source: ImageSource,
        *,
        overwrite: bool = False,
        metadata: bool = True,
        folder: bool = False,
    ) -> None:
        super().__init__(str(path))
        self._source = source
        self._path = path
        self._overwrite, self._metadata = overwrite, metadata
        self._pending: PendingFile | None = None
        self._made: list[Path] = []
        self._tidied: set[Path] = set()
        self._names = frozenset(map(abridged, source.paths))
        if source.root is None:
            self._check_file(source.paths[0], folder)
        else:
            self.remains = "this picture was not written; those that were finished before it stay"
            self._check_folder(source.root, folder)
        self._shelf = source.shelf()

    def _write(self, frame: RedactedFrame) -> None:
        keep = self._keep_of(frame)
        target = self._target(keep.path)
        try:
            self._make(target.parent)
            self._tidy(target.parent)
            self._pending = PendingFile(target, self._overwrite)
            picture.write(self._pending.path, frame.image, frame.covered, keep)
        except SinkError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            raise SinkError(
                f"{target}: can't be written: {reason(error)}: free some space or choose another folder"
            ) from error
        self._pending.commit()
        self._pending = None

    def commit(self) -> None:
        """Nothing is left to do: every picture has its name already."""

    def discard(self) -> None:
        """Removes the picture that isn't finished, and the folders that were made for nothing."""
        self._abandon()
        for folder in reversed(self._made):
            try:
                folder.rmdir()
            except OSError:
                return  # it holds finished pictures

    def _abandon(self) -> None:
        if self._pending is not None:
            self._pending.discard()

    def _keep_of(self, frame: RedactedFrame) -> picture.Keep:
        while self._shelf:
            index, keep = self._shelf.popleft()
            if index == frame.index:  # those before it were left out
                kept = keep if self._metadata else keep.without_notes()
                return kept if frame.fault is None else kept.without_content()
        raise SinkError(f"{self.uri}: expected frames that were read after it was opened, got frame {frame.index}")

    def _target(self, path: Path) -> Path:
        return self._path if self._source.root is None else self._path / path.relative_to(self._source.root)

    def _make(self, folder: Path) -> None:
        missing = [folder, *folder.parents]
        missing = missing[: next(i for i, parent in enumerate(missing) if parent.is_dir())]
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            self._made.append(parent)

    def _tidy(self, folder: Path) -> None:
        """Removes what runs that were killed have left of these pictures."""
        if self._source.root is None:
            remove_leftovers_of(self._path)
        elif folder not in self._tidied:
            self._tidied.add(folder)
            remove_leftovers(folder, self._names.__contains__)

    def _check_file(self, source: Path, folder: bool) -> None:
        if self._path.is_dir():
            self._path = self._path / source.name
        elif folder:
            _check_new_folder(self._path)
            self._path = self._path / source.name
            return
        wanted = picture.SUFFIXES.get(source.suffix.lower())
        if picture.SUFFIXES.get(self._path.suffix.lower()) != wanted:
            raise SinkError(f"{self._path}: a picture keeps its format: expected a name ending in {source.suffix}")
        check_target(self._path, [source], self._overwrite)

    def _check_folder(self, root: Path, folder: bool) -> None:
        if not self._path.is_dir():
            _check_new_folder(self._path)
            kind = kind_of(self._path)
            if kind and not folder:
                raise SinkError(
                    f"{self._path}: several pictures need a folder, got the name of a {kind}: name a folder (with / "
                    "at its end it may have any name)"
                )
        inside, outside = self._path.resolve(), root.resolve()
        if self._source.deep and (inside == outside or outside in inside.parents):
            raise SinkError(f"{self._path}: lies in the source folder {root}: choose a folder outside of it")
        nearest = self._path if self._path.is_dir() else self._path.parent
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise SinkError(f"{self._path}: can't be written to: choose a folder that is writable")
        for path in self._source.paths:
            target = self._target(path)
            if os.path.lexists(target):
                check_target(target, self._source.paths, self._overwrite)


def _check_new_folder(path: Path) -> None:
    if os.path.lexists(path):
        raise SinkError(f"{path}: expected a folder, got a file: name a folder")
    if not path.parent.is_dir():
        raise SinkError(f"{path}: the folder {path.parent} does not exist: create it first")


def kind_of(path: Path) -> str:
    """What a file's suffix says that it is: ``picture``, ``video``, or nothing."""
    suffix = path.suffix.lower()
    if suffix in picture.SUFFIXES or suffix in picture.OTHERS:
        return "picture"
    return "video" if suffix in VIDEOS else ""


def is_picture(path: Path) -> bool:
    """Whether a file's suffix is one of a picture."""
    return path.suffix.lower() in picture.SUFFIXES


def open_folder(folder: Path) -> ImageSource:
    """All pictures of a folder and of those below it; files that aren't pictures are counted in a notice.

    Raises:
        SourceError: there is none.
    """
    locked: list[OSError] = []
    files = [Path(at) / name for at, _, names in os.walk(folder, onerror=locked.append) for name in names]
    files = sorted(path for path in files if path.is_file() and not path.name.startswith("."))
    if locked and not files:
        raise SourceError(f"{locked[0].filename}: can't be listed: {reason(locked[0])}")
    source = _several(str(folder), files, folder, deep=True)
    source.notices += [f"left out: {error.filename}, can't be listed: {reason(error)}" for error in locked]
    return source


def open_pattern(pattern: str) -> ImageSource:
    """All pictures that a pattern such as ``dir/*.jpg`` or ``dir/**/*.png`` matches.

    Raises:
        SourceError: there is none.
    """
    matches = glob(pattern, recursive=True)  # noqa: PTH207 (a pattern may begin anywhere; Path.glob needs its root)
    files = sorted(path for path in map(Path, matches) if path.is_file())
    fixed = pattern.split("*")[0].split("?")[0].split("[")[0]
    root = Path(fixed) if fixed.endswith("/") else Path(fixed).parent
    return _several(pattern, files, root, deep="/" in pattern[len(fixed) :])


def _several(uri: str, files: Sequence[Path], root: Path, deep: bool) -> ImageSource:
    paths = [path for path in files if is_picture(path)]
    others = [path for path in files if not is_picture(path)]
    videos = [path for path in others if kind_of(path) == "video"]
    unread = [path for path in others if kind_of(path) == "picture"]
    known = ", ".join(picture.SUFFIXES)
    if not paths and videos:
        raise SourceError(
            f"{uri}: expected pictures ({known}), got {_named(videos, 'video')}: anonymize videos one by one: "
            + _loop(videos[0])
        )
    if not paths:
        what = f", {_named(unread, 'picture')} of other formats: convert these first" if unread else ""
        raise SourceError(f"{uri}: expected pictures ({known}), got none among {len(files)} files{what}")
    source = ImageSource(uri, paths, root, deep=deep)
    if videos:
        source.notices.append(f"left out, and not anonymized: {_named(videos, 'video')}: anonymize videos one by one")
    if unread:
        source.notices.append(
            f"left out, and not anonymized: {_named(unread, 'picture')} of other formats than {known}: convert these"
        )
    if rest := [path for path in others if not kind_of(path)]:
        source.notices.append(f"left out: {_named(rest, 'file')} that {'is' if len(rest) == 1 else 'are'} no picture")
    return source


def _named(paths: Sequence[Path], word: str) -> str:
    """How many there are, and the names of the first."""
    names = [path.name for path in paths[:_NAMED]] + ["..."] * (len(paths) > _NAMED)
    return f"{len(paths)} {word}{'s' * (len(paths) > 1)} ({', '.join(names)})"


def _loop(video: Path) -> str:
    """What a shell does with all videos of a kind."""
    where = shlex.quote(str(video.parent))
    return f'for v in {where}/*{video.suffix}; do dartblur run "$v" "OUT/${{v##*/}}"; done'
