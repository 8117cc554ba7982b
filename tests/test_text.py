"""Names that strangers chose, in terminals and spreadsheets."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_mamba.text import as_cell, excerpt, first_few, from_cell, joined_by_and, listed, printable, times


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;pwned\x07\x1b[31m", r"\x1b]0;pwned\x07\x1b[31m"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("abc\u202edcba", r"abc\u202edcba"),  # turns what follows round
        ("\x9b31m", r"\x9b31m"),  # the one-byte form of ESC [
        ("\udc80", r"\udc80"),  # of a file name that is not UTF-8
        ("Hirnstamm links, 患者 é", "Hirnstamm links, 患者 é"),
    ],
)
def test_a_terminal_obeys_nothing(text, shown):
    assert printable(text) == shown


@given(st.text())
def test_what_is_shown_is_printable(text):
    assert printable(text).isprintable()


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1"])
def test_a_spreadsheet_computes_nothing(text):
    assert as_cell(text) == f"'{text}"


@given(st.text())
def test_cells_come_back(text):
    assert from_cell(as_cell(text)) == text


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0")))
def test_cells_come_back_from_a_file(text):
    file = io.StringIO(newline="")
    csv.writer(file).writerow([as_cell(text), ""])
    file.seek(0)
    assert from_cell(next(csv.reader(file))[0]) == text


def test_long_values_are_cut():
    assert excerpt({"a": "\x1b[31m"}) == "{'a': '\\x1b[31m'}"
    assert excerpt("a" * 1000) == f"'{'a' * 99}..."


def test_sizes_of_any_kind_of_number():
    assert times((96, np.int64(64), 1.5, np.float32(0.1))) == "96 x 64 x 1.5 x 0.1"


@pytest.mark.parametrize(("names", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), ("abc", "a, b and c")])
def test_joined_by_and(names, text):
    assert joined_by_and(names) == text


def test_first_few():
    assert first_few(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert first_few(iter("abcd"), 2) == "a, b and 2 more"
    assert first_few("abc", 2, "; ") == "a; b and 1 more"
    assert first_few([]) == ""


def test_listed():
    """Nothing is said to be missing where nothing is, and no digit is lost."""
    assert listed(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert listed([0.9999999, 2, 3], 2) == "0.9999999, 2, ..."
