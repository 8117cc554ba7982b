"""The tidy table of an evaluation: one row per case, label and metric.

Columns ``case`` and ``label`` (the name in ``dataset.json``, a region's included), ``metric`` (one of
``metrics.METRICS``) and ``value`` (in the metric's unit; NaN where a label is in neither image, infinite where a
distance has no end; see ``metrics``). In the file an apostrophe stands before a name that a spreadsheet would take for
a formula.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from ..results.folds import validations
from ..text import as_cell, first_few, from_cell

COLUMNS = ("case", "label", "metric", "value")
FOLD = "fold"  # in what is read, not in the file, whose folder says it
_NAMES = ["case", "label", "metric"]
CSV = "evaluation.csv"
JSON = "evaluation.json"  # beside it, how it was measured; see case_results
JSON_BYTES = 1 << 32  # a thousand cases of a hundred labels take 50 MB


def read_metrics(
    path: str | Path, folds: Collection[str] | None = None, metrics: Collection[str] | None = None
) -> pd.DataFrame:
    """Read the table of one model.

    Args:
        path: an ``evaluation.csv``; a folder with one; or a folder with ``fold_*/validation/evaluation.csv``, such as
            a trainer's results folder, whose folds are joined (``fold_all`` is left out beside others, see
            ``results.folds``).
        folds: names of those that are read of the last kind of folder; None for all.
        metrics: those that all cases must have; None for all that some have.

    Returns:
        ``COLUMNS`` and ``fold`` (``fold_0``, ...; empty for predictions that lie elsewhere); every case has every
        label and each of these metrics, once.

    Raises:
        ValueError: for what is missing, there twice or no such table, with the remedy.
    """
    files = _files(Path(path), folds)
    table = pd.concat([_read(file).assign(**{FOLD: _fold_of(file)}) for file in files], ignore_index=True)
    twice = table.loc[table.duplicated(_NAMES), "case"].unique()
    if len(twice):
        raise ValueError(f"{path}: more than one value for case {first_few(twice)}; a case belongs in one fold only")
    cases, labels, measured = (table[key].unique() for key in _NAMES)
    needed = [name for name in measured if metrics is None or name in metrics]
    expected = pd.MultiIndex.from_product([cases, labels, needed], names=_NAMES)
    missing = expected.difference(pd.MultiIndex.from_frame(table[_NAMES]))
    if len(missing):
        rows = [" / ".join(row) for row in missing]
        raise ValueError(f"{path}: no value for {first_few(rows)}; evaluate again, all folds with the same options")
    return table


def format_metrics(table: pd.DataFrame) -> str:
    """Write the text of an ``evaluation.csv``: values to the last bit, ``nan`` and ``inf`` spelled out."""
    safe = table.assign(**{name: table[name].map(as_cell) for name in _NAMES})
    return safe.to_csv(columns=list(COLUMNS), index=False, na_rep="nan", lineterminator="\n")


def folders_of_tables(path: Path, folds: Collection[str] | None = None) -> list[Path]:
    """Find where the tables of a model are, or belong; a file that was renamed belongs to no folder."""
    if path.is_file():
        return [path.parent] if path.name == CSV else []
    return [path] if (path / CSV).is_file() else validations(path, folds) or [*path.glob("validation")]


def _files(path: Path, folds: Collection[str] | None) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path} is neither a file nor a folder")
    files = [folder / CSV for folder in folders_of_tables(path, folds)]
    missing = [str(file.relative_to(path)) for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"{path} has no {first_few(missing)}; make it with: nnunetv2_mamba evaluate {path}")
    if not files:
        raise ValueError(
            f"{path} has neither {CSV} nor fold_*/validation; if it holds predictions, evaluate them with: "
            f"nnunetv2_mamba evaluate REF_DIR {path}"
        )
    return files


def _fold_of(file: Path) -> str:
    """Name the fold whose validation a table is of; empty for others."""
    folder = file.absolute().parent
    fold = folder.parent.name
    return fold if folder.name == "validation" and fold.startswith("fold_") else ""


def _read(file: Path) -> pd.DataFrame:
    try:  # a case may be called 001 and a label NA: only the values may be converted
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        if tuple(table.columns) != COLUMNS:
            raise ValueError(f"its columns are {', '.join(table.columns)}")
        table["value"] = table["value"].map(float).astype(float)
        table = table.assign(**{name: table[name].map(from_cell) for name in _NAMES})
    except ValueError as error:  # pandas' errors of parsing are ValueErrors too
        raise ValueError(f"{file} is no table {','.join(COLUMNS)} ({error}); write it with evaluate") from error
    if table.empty:
        raise ValueError(f"{file} has no rows; write it with evaluate")
    return table
