"""Mutation testing of rooms: ``python mutation/run.py ROOM ...``; docs/mutation.md has the figures.

Mutants are cosmic-ray's. Each is written into a private copy of the checkout and met by the tests that run its line,
the quickest first, in a fork of a process that has imported torch but nothing of this package.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from mutants import Mutant, sample
from observe import Chosen, Observer, OneDataset

try:
    import resource

    import tomllib
except ModuleNotFoundError as error:  # Windows; Python 3.10
    raise SystemExit(f"mutation testing needs Unix and Python 3.11 or newer ({error})") from error

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "nnunetv2_mamba", "tests", "docs", "benchmarks", "dev.py", "mkdocs_registry.py", "README.md", "CONTRIBUTING.md",
    "pyproject.toml",
)  # fmt: skip
IMPORTED = (  # all but this package
    "torch nnunetv2.training.nnUNetTrainer.nnUNetTrainer monai.metrics pandas scipy.stats matplotlib.pyplot jinja2 "
    "SimpleITK nibabel hypothesis torch._dynamo"
).split()
PYTEST = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu", "--no-header", "--tb=line"]
_own: Path  # of each process of the pool
SLOWER = 40  # how much longer than its CPU time a run may take: other processes wait for the CPU too


def main() -> int:
    """Run the samples of some rooms, print what survives, and the shares that were killed."""
    rooms = tomllib.loads((ROOT / "mutation/rooms.toml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rooms", nargs="+", choices=rooms, metavar="ROOM", help=", ".join(rooms))
    parser.add_argument("--sample", type=int, help="how many places to mutate (default: as in rooms.toml)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default 0)")
    parser.add_argument(
        "--seconds", type=float, default=60, help="of tests per mutant, the quickest first (default 60; inf for all)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time (default 1)")
    parser.add_argument(
        "--results", type=Path, help="a folder with a file per room, to go on with; survivors of earlier runs run again"
    )
    arguments = parser.parse_args()
    for room in arguments.rooms:
        _report(room, *_run(room, rooms[room], arguments))
    return 0


def _run(name: str, room: dict, arguments: argparse.Namespace) -> tuple[list[Mutant], dict[str, str]]:
    mutants = sample(ROOT, _sources(room["sources"]), arguments.sample or room["sample"], arguments.seed)
    kept = None if arguments.results is None else arguments.results / f"{name}.json"
    results: dict[str, str] = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}
    waiting = [mutant for mutant in mutants if results.get(mutant.key, "survived") == "survived"]
    with tempfile.TemporaryDirectory() as folder:
        for number, (mutant, verdict) in enumerate(_verdicts(Path(folder).resolve(), room, waiting, arguments), 1):
            print(f"{number}/{len(waiting)} {verdict} {json.dumps(asdict(mutant))}", flush=True)
            results[mutant.key] = verdict
            if kept is not None:
                kept.write_text(json.dumps(results, indent=0))
    return mutants, results


def _report(name: str, mutants: list[Mutant], results: dict[str, str]) -> None:
    survivors = [mutant for mutant in mutants if results[mutant.key] == "survived"]
    killed = len(mutants) - len(survivors)
    print(f"{name}: {killed} of {len(mutants)} killed ({100 * killed / len(mutants):.0f} %); survivors:")
    for mutant in survivors:
        print(f"{mutant.key}  {mutant.path}:{mutant.line}\n    - {mutant.before}\n    + {mutant.after}", flush=True)


def _sources(globs: list[str]) -> list[str]:
    found = {glob: [path.relative_to(ROOT).as_posix() for path in ROOT.glob(glob)] for glob in globs}
    if absent := [glob for glob, paths in found.items() if not paths]:
        raise SystemExit(f"mutation/rooms.toml names files that are not there: {', '.join(absent)}")
    return sorted(path for paths in found.values() for path in paths)


def _verdicts(folder: Path, room: dict, mutants: list[Mutant], arguments: argparse.Namespace):
    """Yield every mutant with its verdict: ``killed``, ``timeout`` or ``survived``."""
    if not mutants:
        return
    os.environ.setdefault("NNUNETV2_MAMBA_TESTS_SHARED", str(ROOT.parent / "shared"))
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # half of what a short run of pytest costs
    for name in IMPORTED:
        import_module(name)
    copy, tiny, seen = _copy(folder / "observed"), folder / "tiny", folder / "observed.json"
    observer = partial(Observer, copy, _sources(room["sources"]), seen)
    _fork(lambda: _pytest(copy, room["tests"], tiny, observer()), folder / "tests.log", limit=3600)
    observed = json.loads(seen.read_text()) if seen.exists() else {}
    if not observed.get("seconds"):  # a file of tests that cannot be imported, for example
        raise SystemExit((folder / "tests.log").read_text()[-3000:])
    if observed["failed"]:
        raise SystemExit(f"these tests fail without a mutation: {', '.join(observed['failed'])}")
    print(f"{len(observed['seconds'])} tests take {sum(observed['seconds'].values()):.0f} s of CPU", flush=True)
    context = multiprocessing.get_context("fork")
    copies = context.SimpleQueue()
    for job in range(arguments.jobs):
        copies.put(_copy(folder / str(job)))
    work = partial(_verdict, tiny, observed, arguments.seconds)
    with context.Pool(arguments.jobs, initializer=_take, initargs=(copies,)) as pool:
        yield from pool.imap_unordered(work, enumerate(mutants))


def _take(copies: Any) -> None:
    """This process's own copy of the checkout."""
    global _own
    _own = copies.get()


def _copy(folder: Path) -> Path:
    folder.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def _verdict(tiny: Path, observed: dict, most: float, numbered: tuple[int, Mutant]) -> tuple[Mutant, str]:
    (number, mutant), copy = numbered, _own
    chosen = _chosen(mutant, observed, most)
    if not chosen:
        return mutant, "survived"
    file = copy / mutant.path
    original = file.read_bytes()
    try:
        file.write_text(mutant.source(copy), encoding="utf-8")
        stamp = 1_000_000_000 + 10 * number  # a time of change of its own: bytecode is kept
        os.utime(file, (stamp, stamp))
        files = sorted({test.partition("::")[0] for test in chosen})
        limit = 60 + 3 * sum(observed["seconds"][test] for test in chosen)
        code = _fork(lambda: _pytest(copy, [*files, "-x"], tiny, Chosen(chosen)), copy / "mutant.log", limit)
    finally:
        file.write_bytes(original)
        os.utime(file, (stamp + 5, stamp + 5))
    # 5: no test was left, because the mutation gives the parameters of tests other names
    return mutant, "survived" if code in (0, 5) else "timeout" if code is None else "killed"


def _chosen(mutant: Mutant, observed: dict, most: float) -> list[str]:
    """Tests that run the line, the quickest first, as long as they take no more than ``most`` seconds together.

    For a line that runs at import, all: a test that reads a constant runs no line of its file.
    """
    seconds, lines = observed["seconds"], observed["lines"].get(mutant.path, {})
    tests = lines.get(str(mutant.line)) or seconds
    ordered = sorted(tests, key=lambda test: seconds[test])
    totals = accumulate(seconds[test] for test in ordered)
    return [test for test, total in zip(ordered, totals, strict=True) if total <= most]


def _pytest(copy: Path, arguments: list[str], tiny: Path, plugin: object) -> int:
    for name in [name for name in sys.modules if name.partition(".")[0] == "nnunetv2_mamba"]:
        del sys.modules[name]  # what the start-up file imported
    sys.path.insert(0, str(copy))
    others = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and Path(entry) != ROOT]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(copy), *others])
    os.chdir(copy)
    plugins = [plugin, OneDataset(tiny)]
    return int(pytest.main([*PYTEST, "-c", "pyproject.toml", "--rootdir", str(copy), *arguments], plugins=plugins))


def _fork(work: Callable[[], int], log: Path, limit: float) -> int | None:
    """Exit code of ``work`` in a child whose output goes to ``log``; None after more than ``limit`` CPU seconds."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = 2
        try:
            code = work()
        finally:
            sys.stdout.flush()
            os._exit(code)
    end = time.monotonic() + SLOWER * limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return None if code in (-signal.SIGXCPU, -signal.SIGKILL) else code
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    sys.exit(main())
