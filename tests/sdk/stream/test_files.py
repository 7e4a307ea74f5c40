"""Outputs appear whole or not at all, and never over their source."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dartblur.errors import SinkError
from dartblur.stream.media.files import PendingFile, check_target, remove_leftovers_of
from dartblur.stream.media.integrity import lacks_index, missing_bytes


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.mp4"
    path.write_bytes(b"source")
    return path


@pytest.mark.parametrize("kind", ["same", "symbolic", "hard", "relative"])
def test_the_source_is_recognized(source, kind, monkeypatch):
    target = source.with_name("out.mp4")
    if kind == "same":
        target = source
    elif kind == "symbolic":
        target.symlink_to(source)
    elif kind == "hard":
        os.link(source, target)
    else:
        monkeypatch.chdir(source.parent)
        target = source.parent / ".." / source.parent.name / "in.mp4"
    with pytest.raises(SinkError, match="never written over"):
        check_target(target, [source], overwrite=True)


def test_existing_targets_need_permission(source):
    target = source.with_name("out.mp4")
    target.write_bytes(b"old")
    with pytest.raises(SinkError, match="--overwrite"):
        check_target(target, [source], overwrite=False)
    check_target(target, [source], overwrite=True)


def test_a_dangling_link_counts_as_existing(source):
    target = source.with_name("out.mp4")
    target.symlink_to(source.with_name("nowhere"))
    with pytest.raises(SinkError, match="--overwrite"):
        check_target(target, [source], overwrite=False)


def test_the_folder_must_exist(source):
    with pytest.raises(SinkError, match="does not exist: create it"):
        check_target(source.parent / "no" / "out.mp4", [source], overwrite=False)
    with pytest.raises(SinkError, match="got a folder"):
        check_target(source.parent, [source], overwrite=False)


def test_pending_becomes_final(tmp_path):
    target = tmp_path / "out.bin"
    pending = PendingFile(target, overwrite=False)
    pending.path.write_bytes(b"whole")
    assert not target.exists()
    pending.commit()
    pending.discard()
    assert target.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [target]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


def test_pending_files_of_runs_with_one_process_number_do_not_meet(tmp_path):
    """In containers every run may have the same number; one that was killed leaves its file behind."""
    killed = PendingFile(tmp_path / "out.bin", overwrite=False)
    later = PendingFile(tmp_path / "out.bin", overwrite=False)
    assert killed.path != later.path


def test_any_name_that_the_disk_takes_is_taken(tmp_path):
    target = tmp_path / ("ö" * 125 + ".bin")
    PendingFile(target, overwrite=False).commit()
    assert target.exists()


def test_pending_is_discarded(tmp_path):
    PendingFile(tmp_path / "out.bin", overwrite=False).discard()
    assert not list(tmp_path.iterdir())


def test_a_target_that_appears_meanwhile_is_kept(tmp_path):
    target = tmp_path / "out.bin"
    pending = PendingFile(target, overwrite=False)
    target.write_bytes(b"somebody else's")
    with pytest.raises(SinkError, match="appeared"):
        pending.commit()
    pending.discard()
    assert target.read_bytes() == b"somebody else's"


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (b"", 0),
        (b"\0\0\0\x10ftypisom\0\0\0\0", 0),
        (b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x20mdat" + b"x" * 8, 16),
        (b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\0mdat" + b"x" * 8, 0),
        (b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x01mdat" + (40).to_bytes(8, "big") + b"x" * 4, 20),
        (b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0", 6),
        (b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\x8a" + b"x" * 4, 6),
        (b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\xff" + b"x" * 4, 0),
        (b"\x1a\x45\xdf\xa3", 0),
        (b"RIFF" + (20).to_bytes(4, "little") + b"AVI LIST", 12),
        (b"neither of these", 0),
    ],
)
def test_missing_bytes(tmp_path, content, missing):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert missing_bytes(path) == missing


def test_what_a_killed_run_has_left_goes_and_what_is_being_written_stays(tmp_path):
    target, other = tmp_path / "out.bin", tmp_path / "other.bin"
    program = "import os, sys; from pathlib import Path; from dartblur.stream.media.files import PendingFile\n"
    program += "pending = PendingFile(Path(sys.argv[1]), False); print(pending.path, flush=True); sys.stdin.read()"
    left = []
    for each in (target, target, other):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(each)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        left.append((process, Path(process.stdout.readline().strip())))
    killed, alive, of_another = left
    killed[0].kill()
    of_another[0].kill()
    for process in (killed[0], of_another[0]):
        process.communicate()
    bystander = tmp_path / ".out.bin.notours.partial"
    bystander.touch()
    assert all(path.exists() for _, path in left)
    remove_leftovers_of(target)
    assert not killed[1].exists()
    assert alive[1].exists()
    assert of_another[1].exists()
    assert bystander.exists()
    alive[0].communicate("")


def test_a_pending_file_that_is_taken_for_a_leftover_is_made_anew(tmp_path, monkeypatch):
    """Another run may look between the making of the file and its lock."""
    import fcntl

    from dartblur.stream.media import files

    calls, lock = [], fcntl.flock

    def late(file, how):
        calls.append(file)
        if len(calls) == 1:
            for path in tmp_path.iterdir():
                path.unlink()
        lock(file, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    pending = PendingFile(tmp_path / "out.bin", overwrite=False)
    assert len(calls) == 2
    pending.path.write_bytes(b"whole")
    pending.commit()
    assert (tmp_path / "out.bin").read_bytes() == b"whole"


def test_a_disk_without_locks(tmp_path, monkeypatch):
    from dartblur.stream.media import files

    def none(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", none)
    pending = PendingFile(tmp_path / "out.bin", overwrite=False)
    remove_leftovers_of(tmp_path / "out.bin")
    assert pending.path.exists()
    pending.commit()
    assert (tmp_path / "out.bin").exists()


MP4 = b"\0\0\0\x10ftypisom\0\0\0\0"


@pytest.mark.parametrize(
    ("content", "lacks"),
    [
        (b"", False),
        (MP4, False),
        (MP4 + b"\0\0\0\x20mdat" + b"x" * 8, True),
        (MP4 + b"\0\0\0\x10mdat" + b"x" * 8 + b"\0\0\0\x10moov" + b"x" * 8, False),
        (MP4 + b"\0\0\0\x10mdat" + b"x" * 8 + b"\0\0\0\x10moov" + b"x" * 7, True),
        (MP4 + b"\0\0\0\x10moov" + b"x" * 8 + b"\0\0\0\x10mdat" + b"x" * 7, False),
        (MP4 + b"\0\0\0\x08meta" + b"\0\0\0\x10mdat" + b"x" * 8, False),
        (b"\x1a\x45\xdf\xa3 mdat", False),
    ],
)
def test_an_index_that_is_missing(tmp_path, content, lacks):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert lacks_index(path) == lacks
