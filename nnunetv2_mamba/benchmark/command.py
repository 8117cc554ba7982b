"""The verb ``benchmark``: a file in, trained models, their evaluation, comparison and report out."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nnunetv2_mamba.processes import signals_raise
from nnunetv2_mamba.text import printable

from . import duration, scores
from .checks import check_same_plans, resolve
from .display import EventLines, LiveTable
from .launcher import Launcher
from .local_launcher import LocalLauncher
from .scheduler import Scheduler
from .sweep import Sweep, find_file, fold_differences, read_sweep
from .training import Training


def benchmark(name: str, folder: Path, datasets: Sequence[str] = (), dry_run: bool = False) -> int:
    """Go on with the sweep in file ``name`` (a path or a ready-made one) in ``folder``, from where it was left.

    Returns:
        The exit code: 1 if a training failed, or the evaluation or comparison of a data set.

    Raises:
        ValueError: for what is wrong with the file or the folder.
        OSError: for what cannot be read or written.
    """
    file = find_file(name)
    sweep = resolve(read_sweep(file, [int(d) if d.isdecimal() else d for d in datasets]))
    folder = folder.resolve()
    for difference in fold_differences(sweep.trainings):
        print(f"WARNING: {difference}", flush=True)
    for training in sweep.trainings:  # all, before anything is written over
        training.check(folder)
        check_same_plans(training, folder)
    if dry_run:
        print("\n".join(duration.describe(sweep, folder)))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    if not ((copy := folder / file.name).exists() and copy.samefile(file)):
        shutil.copyfile(file, copy)
    display = LiveTable(sweep.trainings, folder) if sys.stdout.isatty() else EventLines()
    scheduler = Scheduler(folder, _launcher(sweep, folder, display.event), display, sweep.previous)
    with display, signals_raise():  # so that running jobs are ended too
        failed = scheduler.execute(sweep.trainings)
    table = scores.scores(sweep.trainings, folder)
    print(scores.table_of_models(sweep.trainings, table, folder))
    print(f"Scores of every fold and label: {scores.write_scores(table, folder)}", flush=True)
    concluded = _conclude(sweep.trainings, folder)
    if failed:
        print(f"{len(failed)} of {len(sweep.trainings)} runs failed:", file=sys.stderr)
        for training in failed:
            log = training.log(folder)
            print(f"  {training.name}: {log if log.is_file() else 'not started'}", file=sys.stderr)
        print("They are tried again when the same command is given again.", file=sys.stderr)
    return 0 if concluded and not failed else 1


def _launcher(sweep: Sweep, folder: Path, report: Callable[[str], None]) -> Launcher:
    if sweep.slurm is None:
        return LocalLauncher(folder, sweep.machine)
    from .cluster_launcher import ClusterLauncher  # the extra slurm

    return ClusterLauncher(folder, sweep.machine, sweep.slurm, report)


def _conclude(trainings: tuple[Training, ...], folder: Path) -> bool:
    """Evaluate and compare; what is wrong with one data set is said, and the others go on.

    Returns:
        Whether nothing was wrong.
    """
    # MONAI and matplotlib are not to stand in memory beside the trainings
    from .conclusion import compare_models, complete_models, evaluate_models

    good = True
    for compared, models in complete_models(trainings, folder).items():
        try:
            evaluate_models(models)
            print("\n".join(compare_models(models, folder / "comparison" / compared)), flush=True)
        except (ValueError, OSError) as error:
            good = False
            print(printable(f"{compared} is not compared: {error}"), file=sys.stderr, flush=True)
    return good
