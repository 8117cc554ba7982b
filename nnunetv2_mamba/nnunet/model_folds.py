"""The folds of a trained model's folder, or of one in a ZIP, as nnU-Net names them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path


def find_folds(model: Path | zipfile.Path, folds: Sequence[str] | None, checkpoint: str) -> tuple[str, ...]:
    """The folds that are asked for, each once; for None all the numbered ones that have the checkpoint, else ``all``.

    nnU-Net's own search takes ``fold_0_old`` and other copies, too.

    Raises:
        FileNotFoundError: where there is none, or one that is asked for has no such checkpoint.
    """
    names = [match[1] for path in model.iterdir() if (match := re.fullmatch(r"fold_(0|[1-9][0-9]*|all)", path.name))]
    present = [fold for fold in names if (model / f"fold_{fold}" / checkpoint).is_file()]
    present.sort(key=lambda fold: (fold == "all", len(fold), fold))  # 10 after 9
    if not present:
        raise FileNotFoundError(f"{model} has no fold_0, fold_1, ... with {checkpoint}; name a checkpoint that it has")
    if folds is None:
        return tuple(fold for fold in present if fold != "all") or ("all",)
    missing = [fold for fold in folds if fold not in present]
    if missing:
        raise FileNotFoundError(
            f"{model / f'fold_{missing[0]}' / checkpoint} is missing; folds with it: {', '.join(present)}"
        )
    return tuple(dict.fromkeys(folds))
