"""A pytest plugin: how much CPU time each test of a room takes and which lines it runs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import coverage
import pytest

FIXTURE, TEST = "fixture ", "test "


class Observer:
    """Give each test, and each fixture that several tests share, a context of ``coverage``.

    Args:
        root: the checkout.
        sources: the files whose lines count.
        into: where to write ``{"seconds": {test: s}, "lines": {file: {line: [tests]}}}``, after the last test.
    """

    def __init__(self, root: Path, sources: list[str], into: Path):
        self._root, self._into = root, into
        self._coverage = coverage.Coverage(data_file=None, include=[str(root / path) for path in sources])
        self._seconds: dict[str, float] = defaultdict(float)
        self._users: dict[str, set[str]] = defaultdict(set)
        self._failed: list[str] = []
        self._test = ""
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item, nextitem):
        """The lines of a test; what earlier tests left in caches is forgotten, or only the first would run it."""
        self._forget_cached()
        for fixture in item.fixturenames:
            self._users[FIXTURE + fixture].add(item.nodeid)
        self._test = TEST + item.nodeid
        self._coverage.switch_context(self._test)
        started = _cpu_seconds()
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] += _cpu_seconds() - started

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        if fixturedef.scope == "function":
            return (yield)
        self._coverage.switch_context(FIXTURE + fixturedef.argname)
        try:
            return (yield)
        finally:
            self._coverage.switch_context(self._test)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self._failed.append(report.nodeid)

    def pytest_sessionfinish(self):
        self._coverage.stop()
        data = self._coverage.get_data()
        lines = {
            Path(file).relative_to(self._root).as_posix(): {
                line: sorted(self._tests(contexts)) for line, contexts in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        self._into.write_text(json.dumps({"seconds": self._seconds, "lines": lines, "failed": self._failed}))

    def _tests(self, contexts: list[str]) -> set[str]:
        tests = {context.removeprefix(TEST) for context in contexts if context.startswith(TEST)}
        return tests.union(*(self._users[context] for context in contexts if context.startswith(FIXTURE)))

    def _forget_cached(self) -> None:
        for module in list(sys.modules.values()):
            if str(getattr(module, "__file__", None) or "").startswith(str(self._root)):
                for value in list(vars(module).values()):
                    if callable(getattr(value, "cache_clear", None)):
                        value.cache_clear()


def _cpu_seconds() -> float:
    """Of this process and the children it has waited for."""
    return sum(os.times()[:4])


class Chosen:
    """Run these tests alone, in this order."""

    def __init__(self, tests: list[str]):
        self._place = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted((i for i in items if i.nodeid in self._place), key=lambda item: self._place[item.nodeid])


class OneDataset:
    """nnU-Net plans and preprocesses the tests' small data set once; every process gets a copy of the files."""

    def __init__(self, kept: Path):
        self._kept = kept

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        if fixturedef.argname != "tiny_dataset_files":
            return (yield)
        make = fixturedef.func

        def copied(tmp_path_factory):
            root = tmp_path_factory.mktemp("tiny")
            if not self._kept.exists():
                shutil.copytree(make(tmp_path_factory).raw.parent, self._kept)
            shutil.copytree(self._kept, root, dirs_exist_ok=True)
            return TinyDataset(root / "raw", root / "preprocessed", root / "results")

        from tiny_dataset import TinyDataset

        fixturedef.func = copied
        return (yield)
