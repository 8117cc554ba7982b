"""What nnU-Net logs of a training: its logger's lists, which checkpoints hold, and the lines of its text log.

The only file that knows these formats (nnU-Net 2.8). ``tests/results/test_nnunet_log.py`` has nnU-Net write both, and
fails by the name of what it has changed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from ..untrusted.checkpoints import read_plain


class Curve(NamedTuple):
    """How nnU-Net logs a learning curve.

    Attributes:
        title: what it is, for the reader.
        logged: the name of its list in the logger.
        written: the first words of its lines in the text log.
    """

    title: str
    logged: str
    written: str


CURVES = {
    "dice": Curve("validation Dice of patches", "mean_fg_dice", "Pseudo dice"),
    "train_loss": Curve("training loss", "train_losses", "train_loss"),
    "val_loss": Curve("validation loss", "val_losses", "val_loss"),
}
Curves = dict[str, dict[int, float]]  # value by epoch, by the keys of CURVES
_LINE = re.compile(rf"^[-\d]+ [:.\d]+: (Epoch|{'|'.join(curve.written for curve in CURVES.values())}) (.+)$")
# In [np.float32(0.5), np.float32(nan)] and in [0.5, nan]
_NUMBER = re.compile(r"(?<![\w.+-])(?:nan|[-+]?\d+\.?\d*(?:e[-+]?\d+)?)(?=[,)\]])")


def curves_of_checkpoint(file: Path) -> Curves:
    """Read the curves that a checkpoint's logger holds; its weights are not loaded and no code in it is run.

    Raises:
        OSError, ValueError, pickle.UnpicklingError: as ``read_plain``; ValueError also where it holds no such log.
    """
    content = read_plain(file, weights=False)
    try:
        lists = {name: content["logging"][curve.logged] for name, curve in CURVES.items()}
        if not all(isinstance(own, list) for own in lists.values()):
            raise TypeError("its curves are no lists")
        return {name: _without_nan(enumerate(map(float, own))) for name, own in lists.items()}
    except (LookupError, TypeError, ValueError, OverflowError) as error:  # whatever stands there instead
        raise ValueError(f"{file} holds no log of nnU-Net's: {type(error).__name__} {error}") from error


def text_logs(fold: Path) -> list[Path]:
    """Find the text logs of a fold, the latest last: a continued training has several.

    Their names have no leading zeros: ``training_log_2026_9_30_...``.
    """
    logs = fold.glob("training_log_*.txt")
    return sorted(logs, key=lambda log: [int(number) for number in re.findall(r"\d+", log.name)])


def curves_of_text(logs: Sequence[Path]) -> Curves:
    """Read the curves in text logs; of several values of an epoch the latest log's holds."""
    names = {curve.written: name for name, curve in CURVES.items()}
    curves: Curves = {name: {} for name in CURVES}
    for log in logs:
        epoch = 0
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if not (match := _LINE.match(line.rstrip())):
                continue
            word, text = match.groups()
            if word == "Epoch":
                epoch = int(text) if re.fullmatch(r"\d{1,9}", text) else epoch
                continue
            numbers = [float(number) for number in _NUMBER.findall(f"{text},")]
            numbers = [number for number in numbers if not math.isnan(number)]  # of classes without voxels
            if numbers:
                curves[names[word]][epoch] = fmean(numbers)
    return curves


def _without_nan(values: Iterable[tuple[int, float]]) -> dict[int, float]:
    return {epoch: value for epoch, value in values if not math.isnan(value)}
