"""Where a trained nnU-Net model is: in its folder, or in a ZIP, of which nothing is unpacked."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path, PurePosixPath

from ..files import read_bytes

DOCUMENTS = ("dataset.json", "plans.json")
_MOST_MEMBERS = 100_000  # of a ZIP


def open_model(source: Path) -> Path | zipfile.Path:
    """nnU-Net's folder ``TRAINER__PLANS__CONFIGURATION``, or the one in a ZIP of ``nnUNetv2_export_model_to_zip``.

    Nothing is unpacked: the members of a ZIP are read one by one.

    Raises:
        FileNotFoundError: where there is nothing, or a JSON file is missing.
        ValueError: for a ZIP that is damaged, has no model or several, or a member that points out of it.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    model = source if source.is_dir() else _in_zip(source)
    for file in (model / name for name in DOCUMENTS):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing: give the folder TRAINER__PLANS__CONFIGURATION of nnU-Net's results"
            )
    return model


def _in_zip(source: Path) -> zipfile.Path:
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{source} is neither a model's folder nor a ZIP file: {error}") from error
    if len(names) > _MOST_MEMBERS:
        raise ValueError(f"{source} has {len(names)} members, more than a model has: do not use this file")
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{source} has a member that points out of it, {name!r}: do not use this file")
    paths = [PurePosixPath(name) for name in names]
    folders = [str(path.parent) for path in paths if path.name == "plans.json"]
    if len(folders) > 1:  # nnU-Net copies the file to cross-validated predictions, which --exp_cv_preds exports, too
        with_folds = {str(path.parent.parent) for path in paths if path.parent.name.startswith("fold_")}
        folders = [folder for folder in folders if folder in with_folds] or folders
    if len(folders) != 1:
        found = f"{len(folders)} models ({', '.join(sorted(folders))})" if folders else "no plans.json"
        raise ValueError(f"{source} has {found}; give a ZIP of one model, or unpack it and give the model's folder")
    return zipfile.Path(source, "" if folders[0] == "." else f"{folders[0]}/")


def time_written(file: Path | zipfile.Path) -> float:
    """Seconds since the epoch; of a member by the writer's clock, to two seconds."""
    if isinstance(file, Path):
        return file.stat().st_mtime
    return time.mktime((*file.root.getinfo(file.at).date_time, 0, 0, -1))


def read_member(file: Path | zipfile.Path, limit: int, most_compressed: float = float("inf")) -> bytes:
    """The content of a file or of a member, which is decompressed only where it says that it is not too large."""
    if isinstance(file, Path):
        return read_bytes(file, limit)
    member = file.root.getinfo(file.at)
    if member.file_size > min(limit, most_compressed * max(member.compress_size, 1 << 20)):
        raise ValueError(
            f"{file} has {member.file_size} bytes in {member.compress_size} of the ZIP, more than such a file may have"
        )
    try:
        with file.root.open(member) as stream:  # gives no more than the size above
            return stream.read()
    except Exception as error:  # each kind of compression has its own
        raise ValueError(f"{file} is damaged: {error}") from error
