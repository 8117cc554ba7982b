"""Files that appear whole or not at all, and documents that are read with a bound and a message that names them.

The temporary name of a file or folder, ``.partial-HOST-PROCESS-NUMBER-NAME``, starts with a dot, so that nothing takes
it for a case or a result; it ends as the final one does, because some libraries choose the format by that; and it tells
whose it is: what a killed process left is removed when the same file is written again.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PREFIX = ".partial-"
_LONGEST_END = 120  # bytes of the final name's end, kept in the temporary one: file systems allow 255 in all
_ABANDONED_S = 24 * 3600.0  # after which a temporary file counts as left behind, where nobody knows its process
JSON_BYTES = 64 << 20
_numbers = itertools.count(int.from_bytes(os.urandom(4), "big"))  # the first process of each container has one number


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary name in the folder of ``path`` to write a file to; it becomes ``path`` where the block succeeds.

    The bytes reach the disk before the name does, so that a process killed at any moment, or a power cut, leaves the
    old file or the new one. Two processes at one path do not disturb each other: the last one's file stays.

    Raises:
        OSError: where the file cannot be written (a full disk, no permission), naming ``path``; nothing of it is left.
    """
    with _named_at_last(path) as temporary:
        yield temporary
        _flush(temporary)


@contextmanager
def folder_made_whole(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path`` to fill; it becomes ``path``, which must be missing or an empty folder.

    Raises:
        OSError: where it cannot be written, naming ``path``; nothing of it is left.
    """
    with _named_at_last(path) as temporary:
        temporary.mkdir()
        yield temporary


@contextmanager
def _named_at_last(path: Path) -> Iterator[Path]:
    """Give a temporary name; what has it afterwards is renamed to ``path`` if the block succeeds, else removed."""
    remove_left_behind(path)
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise _naming(error, path, temporary) from error
    finally:
        _remove(temporary)
    _flush_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` whole, in UTF-8 and with the line ends it has; see :func:`written_whole`."""
    with written_whole(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write ``content`` whole; see :func:`written_whole`."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def remove_left_behind(path: Path) -> list[Path]:
    """Remove the temporary files and folders of ``path`` whose process is gone; returns what was removed."""
    pattern = re.compile(f"{re.escape(_PREFIX)}(.+)-([0-9]+)-[0-9]+-{re.escape(_end_of_name(path))}")
    try:
        names = os.listdir(path.parent)  # noqa: PTH208  (names only: folders of many cases)
    except OSError:  # no such folder, or not to be read: whoever writes there says so
        return []
    removed = []
    for name in names:
        match = pattern.fullmatch(name)
        if match and _is_abandoned(path.parent / name, match[1], int(match[2])):
            _remove(path.parent / name)
            removed.append(path.parent / name)
    return sorted(removed)


def is_hidden(path: Path) -> bool:
    """Whether a name starts with a dot: macOS leaves a ``._NAME`` beside each file that it copies."""
    return path.name.startswith(".")


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: where it is missing or cannot be read.
        ValueError: for a pipe, a device or a folder, and for more than ``limit`` bytes.
    """
    try:
        return _read_bytes(path, limit)
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return _read_bytes(path, limit)  # on a network file system another machine has just replaced the file


def _read_bytes(path: Path, limit: int) -> bytes:
    information = path.stat()  # not is_file(): a missing file has a message of its own
    if not stat.S_ISREG(information.st_mode):
        raise ValueError(f"{path} is no file")
    if information.st_size > limit:
        raise ValueError(f"{path} has {information.st_size} bytes, more than the {limit} that such a file may have")
    return path.read_bytes()


def read_json(path: Path, limit: int = JSON_BYTES) -> Any:
    """What a JSON file says.

    Raises:
        OSError: where it is missing or cannot be read.
        ValueError: for what is no JSON, naming the file.
    """
    return parse_json(read_bytes(path, limit), path)


def read_json_object(path: Path, limit: int = JSON_BYTES) -> dict[str, Any]:
    """As :func:`read_json`; what is no object, in braces, is a ValueError too."""
    content = read_json(path, limit)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object: it must start with a brace")
    return content


def read_optional_json(path: Path, limit: int = JSON_BYTES) -> dict[str, Any]:
    """As :func:`read_json_object`, of a file that can be made again: empty where there is none."""
    if not path.exists():
        return {}
    try:
        return read_json_object(path, limit)
    except ValueError as error:
        raise ValueError(f"{error}; make it again or delete it") from error


def parse_json(content: bytes, name: object) -> Any:
    """What the bytes of a JSON document say; a ValueError calls it ``name``."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError(f"{name} is no valid JSON: its brackets are nested too deep") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ValueError(f"{name} is no valid JSON: {error}") from error


def parse_toml(text: str) -> dict[str, Any]:
    """What a TOML document says; ValueError for what is none."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deep") from error


def _temporary(path: Path) -> Path:
    return path.with_name(f"{_PREFIX}{_host()}-{os.getpid()}-{next(_numbers)}-{_end_of_name(path)}")


def _end_of_name(path: Path) -> str:
    return os.fsencode(path.name)[-_LONGEST_END:].decode("utf-8", "ignore")


def _host() -> str:
    """Where a process's number means something, in letters and digits: a machine, or a container, which may have the
    machine's name. Names of a cluster's machines may be long and differ at their ends only."""
    name = socket.gethostname()
    with suppress(OSError):  # as on systems other than Linux
        name += os.readlink("/proc/self/ns/pid")  # noqa: PTH115  (a name, no path)
    return re.sub(r"[^A-Za-z0-9]", "", name)[:12] + hashlib.sha256(name.encode()).hexdigest()[:8]


def _is_abandoned(temporary: Path, host: str, process: int) -> bool:
    if host == _host() and os.name == "posix":  # elsewhere signal 0, which only asks, would end it
        return not _is_alive(process)
    try:
        return time.time() - temporary.stat().st_mtime > _ABANDONED_S
    except FileNotFoundError:
        return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # missing, still open on Windows, or another user's
            path.unlink()


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Let a new name survive a power cut; only POSIX can open a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # file systems that cannot
            raise
    finally:
        os.close(descriptor)


def _naming(error: OSError, path: Path, temporary: Path) -> OSError:
    """The error with the final name: a full disk's has none, others have the temporary one."""
    if error.errno is None:
        return error
    if error.filename is None or str(error.filename).startswith(str(temporary)):
        return OSError(error.errno, error.strerror or os.strerror(error.errno), str(path))
    return error
