"""The tests that need a GPU, ``tests/gpu``, by pytest."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from . import places
from .context import Context

# What takes more than the archive has: the estimate of the memory is made by nnU-Net's parts.
NEED_NNUNET = ("test_memory_on_cuda.py",)


class Rows:
    """A plugin of pytest that emits a row for every test."""

    def __init__(self, context: Context):
        self.context = context
        self.skipped = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
            self._emit(report)
        elif report.when == "teardown" and report.failed:
            self._emit(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._emit(report)

    def _emit(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        row = {"test": report.nodeid.removeprefix("tests/gpu/"), "outcome": report.outcome}
        if report.outcome == "passed":
            row |= {"seconds": report.duration, "passed": True}
        elif report.outcome == "failed":
            row |= {"passed": False, "why": "\n".join(report.longreprtext.splitlines()[-12:])}
        elif self.context.is_dry:
            self.skipped += 1
            return
        else:
            row |= {"why": str(report.longrepr[-1]) if isinstance(report.longrepr, tuple) else report.longreprtext}
        self.context.emit(row)


def run(context: Context, job: str) -> None:
    """Emit a row for every test; in a dry run they skip, which is said once."""
    folder = places.ROOT / "tests" / "gpu"
    left_out = [] if has_nnunet() else list(NEED_NNUNET)
    for name in () if context.is_dry else left_out:
        context.emit({"test": name, "outcome": "left out", "why": "needs nnunetv2; see the estimates of the memory"})
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(places.ROOT), "-c", str(places.ROOT / "pyproject.toml")]
    ignored = [f"--ignore={folder / name}" for name in left_out]
    rows = Rows(context)
    code = pytest.main([*options, *ignored, str(folder)], plugins=[rows])
    context.needs_cuda(f"{rows.skipped} tests of tests/gpu, which were collected and skipped")
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {code!r}")


def has_nnunet() -> bool:
    """Whether all of nnU-Net is installed, not only the losses that the archive brings."""
    try:
        return find_spec("nnunetv2.training.nnUNetTrainer") is not None
    except ImportError:
        return False
