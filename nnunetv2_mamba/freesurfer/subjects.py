"""The subjects in FreeSurfer's ``SUBJECTS_DIR`` and their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import is_hidden
from .volumes import grid_difference, read_volume

# As FreeSurfer 7 names them, with the version of the atlas (v21, v22) and the additional images of the run in between.
SUBFIELDS_PATTERN = "hippoAmygLabels*.FS60.FSvoxelSpace.mgz"


@dataclass(frozen=True)
class Subject:
    """A subject's files.

    Attributes:
        subfields: of the left and the right side, where the task needs them.
    """

    name: str
    image: Path
    aseg: Path
    subfields: tuple[Path, ...] = ()


def find_subjects(
    subjects_dir: Path, names: Sequence[str] | None, image: str, subfields_pattern: str | None
) -> list[Subject]:
    """Find the files and check that they are there and on the same voxel grid.

    Args:
        names: of the subjects; None for all folders with an ``mri`` folder, save hidden ones and FreeSurfer's templates
            ``fsaverage*``.
        image: file in ``mri``.
        subfields_pattern: of the files in ``mri`` after ``lh.`` and ``rh.``; None where no subfields are needed.

    Raises:
        ValueError: with everything that is wrong with any of the subjects.
    """
    if names is None:
        names = sorted(
            folder.parent.name
            for folder in subjects_dir.glob("*/mri")
            if folder.is_dir() and not folder.parent.name.startswith("fsaverage") and not is_hidden(folder.parent)
        )
    names = list(dict.fromkeys(str(Path(name)) for name in names))  # without a slash at the end
    if not names:
        raise ValueError(f"no folder in {subjects_dir} has a folder mri, as a FreeSurfer subject has")
    subjects, problems = [], []
    for name in names:
        try:
            if Path(name).name != name:
                raise ValueError("--subjects takes the names of folders in SUBJECTS_DIR, which name the cases")
            subjects.append(_subject(subjects_dir / name, image, subfields_pattern))
        except (OSError, ValueError) as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ValueError(
            f"{len(problems)} of {len(names)} subjects cannot be converted (--subjects leaves some out): "
            + "; ".join(problems)
        )
    return subjects


def _subject(folder: Path, image: str, subfields_pattern: str | None) -> Subject:
    mri = folder / "mri"
    sides = () if subfields_pattern is None else ("lh", "rh")
    subfields = tuple(_only_match(mri, f"{side}.{subfields_pattern}") for side in sides)
    subject = Subject(folder.name, mri / image, mri / "aseg.mgz", subfields)
    missing = [file for file in (subject.image, subject.aseg) if not file.is_file()]
    if missing:
        raise ValueError(f"there is no {', no '.join(map(str, missing))}")
    reference = read_volume(subject.image)
    for file in (subject.aseg, *subfields):
        volume = read_volume(file)
        difference = grid_difference(reference.shape, reference.affine, volume.shape, volume.affine)
        if difference:
            raise ValueError(f"{image} and {file.name} are on different voxel grids: {difference}")
    return subject


def _only_match(folder: Path, pattern: str) -> Path:
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"one file {folder / pattern} is needed, found {found} (--subfields-pattern chooses)")
    return files[0]
