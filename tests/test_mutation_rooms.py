"""What ``mutation/rooms.toml`` names is there: mutation testing itself takes hours, see ``docs/mutation.md``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnunetv2_mamba.files import parse_toml

ROOT = Path(__file__).parents[1]
ROOMS = parse_toml((ROOT / "mutation" / "rooms.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("room", ROOMS)
def test_its_sources_and_tests_exist(room):
    assert ROOMS[room].keys() == {"sources", "tests", "sample"}
    for pattern in ROOMS[room]["sources"]:
        assert list(ROOT.glob(pattern)), pattern
    for test in ROOMS[room]["tests"]:
        file, _, name = test.partition("::")
        assert (ROOT / file).exists(), file
        assert not name or re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), test


@pytest.mark.parametrize("room", ROOMS)
def test_what_its_tests_read_is_copied(room):
    """Tests of a room run in a copy of the checkout, and must not fail there without a mutation."""
    source = (ROOT / "mutation" / "run.py").read_text(encoding="utf-8")
    copied = re.search(r"^COPIED = \(([^)]*)\)", source, re.MULTILINE)[1]
    for test in ROOMS[room]["tests"]:
        path = ROOT / test.partition("::")[0]
        for file in path.rglob("test_*.py") if path.is_dir() else [path]:
            for name in re.findall(r'\bROOT / "([^"]+)"', file.read_text(encoding="utf-8")):
                assert f'"{name}"' in copied, (file, name)


def test_at_least_300_places_are_drawn():
    assert sum(room["sample"] for room in ROOMS.values()) >= 300
