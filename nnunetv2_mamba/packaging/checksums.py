"""The SHA-256 of a model's files, as ``sha256sum`` writes them, and whether files are still those."""

from __future__ import annotations

import hashlib
from pathlib import Path

SHA256SUMS = "SHA256SUMS"
_CHUNK = 1 << 20  # bytes


def sha256(file: Path) -> str:
    """In hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_checksums(folder: Path, sums: Path) -> dict[str, str]:
    """Write the sums of all files in a folder; returns them by path in it, in order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = {file.relative_to(folder).as_posix(): sha256(file) for file in files}
    sums.write_text("".join(f"{digest}  {name}\n" for name, digest in found.items()), encoding="utf-8", newline="\n")
    return found


def check_files(folder: Path, sums: Path) -> None:
    """Check that a folder has the files of ``write_checksums``, as they were; others may be there too.

    Raises:
        FileNotFoundError: where one is missing.
        ValueError: where one has changed, or ``sums`` is not such a file.
    """
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, separator, name = line.partition("  ")
        if not separator:
            raise ValueError(f"{sums} is not a list of SHA-256 sums: {line[:80]!r}")
        file = folder / name
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing, which {sums} lists: give the model of the same package")
        if sha256(file) != digest:
            raise ValueError(
                f"{file} is not the file that was packaged: its SHA-256 is not the one in {sums}; give the model of "
                "the same package, or package again"
            )
