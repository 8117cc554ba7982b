"""Measures the cases of a pairing in processes, keeps what is finished, and writes the results."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing import get_context, parent_process
from pathlib import Path

import pandas as pd
from nnunetv2.configuration import default_num_processes
from tqdm import tqdm

from ..files import read_json, write_json, write_text
from .case_measurement import measure_files
from .case_results import evaluation_json, evaluation_table, versions
from .metric_options import PROBABILITIES, MetricOptions
from .metrics import METRICS
from .pairings import Pairing, check_probabilities
from .tables import CSV, JSON, format_metrics

FINISHED = "evaluation_cases"


def evaluate_pairings(
    pairings: list[Pairing], options: MetricOptions, processes: int | None = None
) -> list[pd.DataFrame]:
    """Measure all cases and write ``evaluation.json`` and ``evaluation.csv`` into each pairing's output.

    Finished cases are kept in a folder ``evaluation_cases`` there. They are not measured again unless a file, the
    labels, an option or a version of a package changes.

    Args:
        processes: at most so many; 1 for none besides this. None for as many as nnU-Net would take and there are cores.

    Returns:
        The tables, as in the files.

    Raises:
        ValueError: for all that is wrong with any of the files; the results are not written, finished cases are kept.
        OSError: files cannot be written, or a process was killed.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"-np must be at least 1, got {processes}")
    if PROBABILITIES in options.groups:
        check_probabilities(pairings)
    jobs = [(number, case) for number, pairing in enumerate(pairings) for case in pairing.cases]
    processes = min(processes or min(default_num_processes, os.cpu_count() or 1), len(jobs))
    for pairing in pairings:
        (pairing.output / FINISHED).mkdir(parents=True, exist_ok=True)
    measured = _measure_all(pairings, jobs, options, processes)
    results = dict(tqdm(measured, total=len(jobs), desc="evaluate", unit="case"))
    problems = sorted(str(result) for result in results.values() if isinstance(result, ValueError))
    if problems:
        raise ValueError(f"{len(problems)} of {len(jobs)} cases cannot be evaluated: {'; '.join(problems)}")
    return [
        _write(pairing, options, {case: results[number, case] for case in pairing.cases})
        for number, pairing in enumerate(pairings)
    ]


def _measure_all(
    pairings: list[Pairing], jobs: list[tuple[int, str]], options: MetricOptions, processes: int
) -> Iterator[tuple[tuple[int, str], dict | ValueError]]:
    """Give each job, the number of a pairing and a case, with its result, as they are finished."""
    if processes == 1:
        for number, case in jobs:
            yield (number, case), _result(pairings[number], case, options)
        return
    # spawn: a fork of a process with torch's threads may hang
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_prepare_worker)
    try:
        futures = {pool.submit(_result, pairings[number], case, options): (number, case) for number, case in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise OSError("a process was killed, maybe for memory; run again with a smaller -np to go on") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent ends, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def _result(pairing: Pairing, case: str, options: MetricOptions) -> dict | ValueError:
    """Measure a case, unless an earlier run has; an error is returned, so that others can be added to it."""
    reference, prediction = pairing.cases[case]
    file = pairing.output / FINISHED / f"{case}.json"
    try:
        contents = _contents(pairing, case, options)
        key = _key(pairing, options, contents)
        kept = _read_kept(file, key)
        if kept is not None:
            return kept
        result = measure_files(
            reference, prediction, pairing.reader, pairing.labels, options, pairing.probabilities(case)
        )
        result |= {"reference_sha256": contents[reference], "prediction_sha256": contents[prediction]}
        write_json(file, {"key": key, "digest": _digest(result), "result": result}, indent=None)
        return result
    except ValueError as error:
        return error


def _read_kept(file: Path, key: str) -> dict | None:
    """Read the result of an earlier run, where it is there, belongs to ``key`` and is what was written."""
    try:
        kept = read_json(file)
    except (FileNotFoundError, ValueError):  # none yet, or damaged
        return None
    if not isinstance(kept, dict) or kept.get("key") != key or kept.get("digest") != _digest(kept.get("result")):
        return None
    return kept["result"]


def _digest(result: object) -> str:
    return hashlib.sha256(json.dumps(result).encode()).hexdigest()


@functools.cache
def _definitions() -> str:
    """Make a digest of the files that say what is computed, for those who change a metric."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _contents(pairing: Pairing, case: str, options: MetricOptions) -> dict[Path, str]:
    """Make digests of the files of a case, empty where there is none."""
    files = [name for file in pairing.cases[case] for name in (file, file.with_name(f"{case}.json"))]  # of a TIFF
    if PROBABILITIES in options.groups:
        files.append(pairing.probabilities(case))
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "" for file in files}


def _key(pairing: Pairing, options: MetricOptions, contents: dict[Path, str]) -> str:
    """Make a digest of all that the result depends on."""
    settings = [
        asdict(pairing.labels),
        asdict(options),
        [*METRICS],
        pairing.reader.__name__,
        versions(),
        _definitions(),
        [*contents.values()],
    ]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def _write(pairing: Pairing, options: MetricOptions, results: dict[str, dict]) -> pd.DataFrame:
    table = evaluation_table(pairing, options, results)
    csv, text = pairing.output / CSV, format_metrics(table)
    # Never an old table beside a new evaluation.json; one that stays as it is may be read meanwhile by another process
    if csv.is_file() and csv.read_bytes() != text.encode():
        csv.unlink()
    write_json(pairing.output / JSON, evaluation_json(pairing, options, results), indent=1)
    write_text(csv, text)
    return table
