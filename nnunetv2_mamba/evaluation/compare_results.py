"""The verb ``compare``: folders in, statistics, tables, figures and a report out."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

from ..results.model_names import short_names
from .compare_tables import compare_tables
from .comparison import Comparison
from .evaluated_model import read_evaluated_model
from .metrics import DEFAULT_METRICS
from .provenance import check_alike, notes
from .report.report_files import make_files, write_files
from .tables import read_metrics


def compare_results(
    paths: Sequence[Path],
    output: Path,
    names: Sequence[str] | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    seed: int = 0,
    images: Path | None = None,
    references: Path | None = None,
    folds: Sequence[Collection[str]] | None = None,
) -> Comparison:
    """Compare evaluated results and write the report into ``output``.

    Args:
        paths: as for ``tables.read_metrics``.
        names: one for each path; the same name twice for repetitions (seeds) of a model. None for short ones made of
            nnU-Net's folder names.
        metrics: of ``metrics.METRICS``; the first chooses the cases that are shown.
        seed: of the bootstrap.
        images, references: folders, where they are not where the evaluation found them.
        folds: of each path the names of those that are compared; None for all.

    Raises:
        ValueError: for what cannot be compared, see ``compare_tables`` and ``provenance.check_alike``.
        OSError: if the report cannot be written.
    """
    if names is not None and len(names) != len(paths):
        raise ValueError(f"--names has {len(names)} names for {len(paths)} results; give one for each")
    which = [None] * len(paths) if folds is None else folds
    tables = [read_metrics(path, own, metrics) for path, own in zip(paths, which, strict=True)]
    models = [read_evaluated_model(path, own) for path, own in zip(paths, which, strict=True)]
    check_alike(models, metrics)
    names = short_names(paths) if names is None else list(names)
    comparison = compare_tables(list(zip(names, tables, strict=True)), metrics, seed)
    grouped = {
        name: [model for model, other in zip(models, names, strict=True) if other == name] for name in comparison.names
    }
    comparison = dataclasses.replace(comparison, notes=(*notes(models), *comparison.notes))
    write_files(make_files(comparison, grouped, images, references), output)
    return comparison
