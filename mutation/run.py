"""Mutation testing of a room: ``python mutation/run.py ROOM``. docs/mutation.md says what it is for and what it found.

Mutants are cosmic-ray's. Each is written into a private copy of the checkout and met by the tests that run its line,
the quickest first, in a fork of a process that has imported torch but nothing of this package.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import import_module
from itertools import accumulate
from pathlib import Path

import pytest
from mutants import Mutant, sample
from observe import Chosen, Observer, OneDataset

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("nnunetv2_mamba", "tests", "docs", "benchmarks", "dev.py", "README.md", "CONTRIBUTING.md", "pyproject.toml")
IMPORTED = (  # all but this package
    "torch nnunetv2.training.nnUNetTrainer.nnUNetTrainer monai.metrics pandas scipy.stats matplotlib.pyplot jinja2 "
    "statsmodels.stats.multitest SimpleITK nibabel hypothesis torch._dynamo"
).split()
PYTEST = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu", "--no-header", "--tb=line"]


def main() -> int:
    """Run the sample of a room, print what survives, and the share that was killed."""
    rooms = tomllib.loads((ROOT / "mutation/rooms.toml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("room", choices=rooms)
    parser.add_argument("--sample", type=int, help="how many places to mutate (default: as in rooms.toml)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default 0)")
    parser.add_argument(
        "--seconds", type=float, default=60, help="of tests per mutant, the quickest first (default 60; inf for all)"
    )
    parser.add_argument("--results", type=Path, help="a file of an earlier run to go on with; its survivors run again")
    arguments = parser.parse_args()
    room = rooms[arguments.room]
    sources = _sources(room["sources"])
    mutants = sample(ROOT, sources, arguments.sample or room["sample"], arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        copy = _copy(Path(folder).resolve())
        results = _run(copy, sources, room["tests"], mutants, arguments.results, arguments.seconds)
    survivors = [mutant for mutant in mutants if results[mutant.key] == "survived"]
    killed = len(mutants) - len(survivors)
    print(f"{arguments.room}: {killed} of {len(mutants)} killed ({100 * killed / len(mutants):.0f} %); survivors:")
    for mutant in survivors:
        print(f"{mutant.key}  {mutant.path}:{mutant.line}\n    - {mutant.before}\n    + {mutant.after}")
    return 0


def _sources(globs: list[str]) -> list[str]:
    found = {glob: [path.relative_to(ROOT).as_posix() for path in ROOT.glob(glob)] for glob in globs}
    if absent := [glob for glob, paths in found.items() if not paths]:
        raise SystemExit(f"mutation/rooms.toml names files that are not there: {', '.join(absent)}")
    return sorted(path for paths in found.values() for path in paths)


def _copy(folder: Path) -> Path:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def _run(
    copy: Path, sources: list[str], tests: list[str], mutants: list[Mutant], kept: Path | None, most: float
) -> dict[str, str]:
    results: dict[str, str] = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}
    waiting = [mutant for mutant in mutants if results.get(mutant.key, "survived") == "survived"]
    if not waiting:
        return results
    os.environ.setdefault("NNUNETV2_MAMBA_TESTS_SHARED", str(ROOT.parent / "shared"))
    os.environ.update(PYTHONPATH=os.pathsep.join([str(copy), *_path()]), OMP_NUM_THREADS="1")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # half of what a short run of pytest costs
    for name in IMPORTED:
        import_module(name)
    seen = copy / "observed.json"
    _fork(lambda: _pytest(copy, tests, Observer(copy, sources, seen)), copy / "tests.log", limit=3600)
    observed = json.loads(seen.read_text())
    if observed["failed"]:
        raise SystemExit(f"these tests fail without a mutation: {', '.join(observed['failed'])}")
    print(f"{len(observed['seconds'])} tests take {sum(observed['seconds'].values()):.0f} s", flush=True)
    for number, mutant in enumerate(waiting):
        started = time.monotonic()
        results[mutant.key] = _verdict(copy, mutant, observed, most, stamp=1_000_000_000 + 10 * number)
        spent = time.monotonic() - started
        print(
            f"{number + 1}/{len(waiting)} {results[mutant.key]} {spent:.1f} s {json.dumps(asdict(mutant))}", flush=True
        )
        if kept is not None:
            kept.write_text(json.dumps(results, indent=0))
    return results


def _verdict(copy: Path, mutant: Mutant, observed: dict, most: float, stamp: int) -> str:
    """``killed``, ``timeout`` or ``survived``. ``stamp``: the file's time of change, of its own: bytecode is kept."""
    chosen = _chosen(mutant, observed, most)
    seconds = sum(observed["seconds"][test] for test in chosen)
    file = copy / mutant.path
    original = file.read_bytes()
    file.write_text(mutant.source(copy), encoding="utf-8")
    os.utime(file, (stamp, stamp))
    try:
        files = sorted({test.partition("::")[0] for test in chosen})
        log = copy / "mutant.log"
        code = _fork(lambda: _pytest(copy, [*files, "-x"], Chosen(chosen)), log, limit=60 + 5 * seconds) if files else 0
    finally:
        file.write_bytes(original)
        os.utime(file, (stamp + 5, stamp + 5))
    return "survived" if code == 0 else "timeout" if code is None else "killed"


def _chosen(mutant: Mutant, observed: dict, most: float) -> list[str]:
    """Tests that run the line, the quickest first, as long as they take no more than ``most`` seconds together.

    For a line that runs at import, those that run any line of the file, and for a file that has no others, all.
    """
    seconds, lines = observed["seconds"], observed["lines"].get(mutant.path, {})
    tests = lines.get(str(mutant.line)) or {test for tests in lines.values() for test in tests} or seconds
    ordered = sorted(tests, key=lambda test: seconds[test])
    totals = accumulate(seconds[test] for test in ordered)
    return [test for test, total in zip(ordered, totals, strict=True) if total <= most]


def _pytest(copy: Path, arguments: list[str], plugin: object) -> int:
    for name in [name for name in sys.modules if name.partition(".")[0] == "nnunetv2_mamba"]:
        del sys.modules[name]  # what the start-up file imported
    sys.path.insert(0, str(copy))
    os.chdir(copy)
    plugins = [plugin, OneDataset(copy / "tiny")]
    return int(pytest.main([*PYTEST, "-c", "pyproject.toml", "--rootdir", str(copy), *arguments], plugins=plugins))


def _fork(work, log: Path, limit: float) -> int | None:
    """Exit code of ``work`` in a child whose output goes to ``log``; None if it took longer than ``limit`` seconds."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = 2
        try:
            code = work()
        finally:
            sys.stdout.flush()
            os._exit(code)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _path() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and Path(entry) != ROOT]


if __name__ == "__main__":
    sys.exit(main())
