"""Files that are there whole or not at all, and documents that are read with a bound."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nnunetv2_mamba import files
from nnunetv2_mamba.files import (
    folder_made_whole,
    parse_json,
    read_bytes,
    read_json,
    read_json_object,
    read_optional_json,
    remove_left_behind,
    write_json,
    write_text,
    written_whole,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_at_the_end(tmp_path):
    file = tmp_path / "a.nii.gz"
    with written_whole(file) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".") and temporary.name.endswith("a.nii.gz")
        temporary.write_bytes(b"new")
        assert not file.exists()
    assert names(tmp_path) == ["a.nii.gz"]
    assert file.read_bytes() == b"new"


@pytest.mark.parametrize(
    "error", [ValueError("no"), OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(type(error)) as raised, written_whole(file) as temporary:
        temporary.write_text("half")
        raise error
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]
    if isinstance(error, OSError):  # a full disk is named with its file
        assert str(raised.value) == f"[Errno {errno.ENOSPC}] No space left on device: '{file}'"


def test_a_missing_folder_is_named_by_the_final_file(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        write_text(tmp_path / "none" / "a.txt", "text")
    assert str(tmp_path / "none" / "a.txt") in str(raised.value)
    assert files._PREFIX not in str(raised.value)


@pytest.mark.parametrize("start", ["x" * 251, "患" * 83])
def test_a_name_as_long_as_the_file_system_allows(tmp_path, start):
    """255 bytes; of a letter of Japanese, three each."""
    file = tmp_path / f"{start}.txt"
    write_text(file, "text")
    assert names(tmp_path) == [file.name]


def test_one_process_writes_a_file_twice_at_once(tmp_path):
    file = tmp_path / "a.txt"
    with written_whole(file) as one, written_whole(file) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert file.read_text() == "one"
    assert names(tmp_path) == ["a.txt"]


KILLED = """
import os, sys
from pathlib import Path
from nnunetv2_mamba.files import folder_made_whole, written_whole
file = Path(sys.argv[1])
with (folder_made_whole if sys.argv[2] == "folder" else written_whole)(file) as temporary:
    (temporary / "half" if sys.argv[2] == "folder" else temporary).write_text("half")
    os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(os.name != "posix", reason="no signal 9 there")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path, kind):
    target = tmp_path / "a"
    subprocess.run([sys.executable, "-c", KILLED, str(target), kind], check=False)
    (left,) = names(tmp_path)
    assert left != "a"
    if kind == "file":
        write_text(target, "whole")
    else:
        with folder_made_whole(target) as temporary:
            (temporary / "whole").write_text("")
    assert names(tmp_path) == ["a"]


def test_what_a_living_process_writes_stays(tmp_path):
    with written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("")
        assert remove_left_behind(tmp_path / "a.txt") == []
        assert temporary.exists()


def test_containers_may_have_the_name_of_their_machine(tmp_path, monkeypatch):
    """There and here, processes have other numbers."""
    left = []
    for namespace in ("pid:[1]", "pid:[2]"):
        monkeypatch.setattr(files.os, "readlink", lambda _, it=namespace: it)
        monkeypatch.setattr(files.os, "getpid", lambda: 2**22 + 7)
        left.append(files._temporary(tmp_path / "a.txt"))
        left[-1].write_text("")
    assert remove_left_behind(tmp_path / "a.txt") == left[1:]


@pytest.mark.parametrize(("age_h", "removed"), [(1, False), (25, True)])
def test_what_another_machine_left_goes_after_a_day(tmp_path, age_h, removed):
    left = tmp_path / ".partial-elsewhere-1-0-a.txt"
    left.write_text("")
    then = left.stat().st_mtime - age_h * 3600
    os.utime(left, (then, then))
    assert remove_left_behind(tmp_path / "a.txt") == ([left] if removed else [])
    assert left.exists() is not removed


def test_where_a_process_cannot_be_asked_age_decides(tmp_path, monkeypatch):
    """On Windows a file that a living process has closed could be removed before it gets its name."""
    fresh = tmp_path / f".partial-{files._host()}-{2**22 + 7}-0-a.txt"
    fresh.write_text("")
    monkeypatch.setattr(files.os, "name", "nt")
    assert not files._is_abandoned(fresh, files._host(), 2**22 + 7)


def test_what_another_machine_writes_stays_where_the_names_begin_alike(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "ip-10-0-1-234.eu-central-1.compute.internal")
    with written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("")
        process = re.search(r"-(\d+)-\d+-a\.txt$", temporary.name)[1]
        monkeypatch.setattr("socket.gethostname", lambda: "ip-10-0-12-34.eu-central-1.compute.internal")
        monkeypatch.setattr(files, "_is_alive", lambda number: number != int(process))  # it has other processes
        assert remove_left_behind(tmp_path / "a.txt") == []


def test_a_file_that_another_machine_replaces_under_the_reading_is_read_again(tmp_path, monkeypatch):
    """As NFS tells of it: what was opened is there no more."""
    file = tmp_path / "a.json"
    write_json(file, {"epochs": 3})
    read, stale = Path.read_bytes, [OSError(errno.ESTALE, "Stale file handle")]

    def once_stale(path):
        if stale:
            raise stale.pop()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", once_stale)
    assert read_optional_json(file) == {"epochs": 3}


def test_the_temporary_files_of_others_stay(tmp_path):
    for name in (".partial-elsewhere-1-0-b.txt", ".partial-elsewhere-1-0-xa.txt", ".partial-a.txt", "a.txt"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (0, 0))
    before = names(tmp_path)
    remove_left_behind(tmp_path / "a.txt")
    assert names(tmp_path) == before


def test_a_folder_appears_at_the_end(tmp_path):
    folder = tmp_path / "context"
    folder.mkdir()  # empty, as --help allows
    with folder_made_whole(folder) as temporary:
        (temporary / "a").write_text("")
        assert names(folder) == []
    assert names(folder) == ["a"]
    with pytest.raises(ValueError), folder_made_whole(tmp_path / "other"):
        raise ValueError
    assert names(tmp_path) == ["context"]
    with pytest.raises(OSError, match="context"), folder_made_whole(folder):
        pass  # no empty folder: nothing of it is lost
    assert names(folder) == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,}', "d.json is no valid JSON: "),
        (b"", "d.json is no valid JSON: "),
        (b"[" * 100_000, "d.json is no valid JSON: its brackets are nested too deep"),
        (b'{"a": "\xff"}', "d.json is no valid JSON: "),
        (b"[]", "d.json holds no JSON object"),
        (b"null", "d.json holds no JSON object"),
        (b" " * 200, "d.json has 200 bytes, more than the 100 "),
    ],
)
def test_what_is_no_object_of_json_is_named(tmp_path, content, message):
    (tmp_path / "d.json").write_bytes(content)
    with pytest.raises(ValueError, match="d.json") as raised:
        read_json_object(tmp_path / "d.json", 100 if content.startswith(b" ") else 1 << 20)
    assert message in str(raised.value)


def test_json_is_read_and_written(tmp_path):
    write_json(tmp_path / "d.json", {"é": [1, None]})
    assert read_json(tmp_path / "d.json") == read_json_object(tmp_path / "d.json") == {"é": [1, None]}
    assert parse_json(b"[1]", "member of a ZIP") == [1]


def test_a_file_that_may_be_missing_is_empty_then_and_else_whole(tmp_path):
    assert read_optional_json(tmp_path / "d.json") == {}
    (tmp_path / "d.json").write_bytes(b"[]")
    with pytest.raises(ValueError, match=r"d.json holds no JSON object.*; make it again or delete it"):
        read_optional_json(tmp_path / "d.json")


def test_only_files_are_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none", 10)
    with pytest.raises(ValueError, match="is no file"):
        read_bytes(tmp_path, 10)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="pipe is no file"):  # and does not wait for a writer
            read_bytes(tmp_path / "pipe", 10)
