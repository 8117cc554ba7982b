"""The results as tables, and against the figures promised."""

import json
import re
from pathlib import Path

import gpu_suite
import pytest
from gpu_sections.context import NEEDS_CUDA, NOT_POSSIBLE
from gpu_sections.sections import all_sections
from gpu_sections.tables import summary, table
from gpu_sections.targets import STAGE_1, against_targets
from published import SEGMAMBA_TRAINING_MIB

ROWS = {
    "speed": [{**STAGE_1, "forward / floor": 1.9, "backward / floor": 4.5}],
    "rival": [{"size": "SegMamba stage 1", "speed-up": 3.0}],
    "training": [
        {"network": "SegMamba", "what": "training", "ms": 200.0, "peak MiB": 0.5 * SEGMAMBA_TRAINING_MIB},
        {"network": "SegMamba, no Mamba", "what": "training", "ms": 150.0, "peak MiB": None},
        {"network": "MedSegMamba", "what": "training", "ms": 100.0, "peak MiB": None},
        {"network": "MedSegMamba", "what": "prediction", "ms": 10.0, "peak MiB": None},
    ],
}


def section(name: str, rows: list[dict], **others) -> dict:
    return {
        "section": name,
        "title": f"The {name}",
        "status": "passed",
        "seconds": 1.5,
        "limit s": 60,
        "rows": rows,
        NEEDS_CUDA: [],
        NOT_POSSIBLE: [],
        "errors": {},
        **others,
    }


def test_figures_promised():
    figures = {row["figure"]: (row["measured"], row["reached"]) for row in against_targets(ROWS)}
    assert figures == {
        "stage 1, speed-up over mamba_ssm": (3.0, True),
        "stage 1, forward over the floor of two exponentials": (1.9, True),
        "stage 1, backward over the floor of three exponentials": (4.5, False),
        "SegMamba's training step, memory over the paper's": (0.5, True),
        "SegMamba's training step, share of the state-space part": (0.25, True),
        "MedSegMamba's training step, share of the state-space part": (None, None),
        "MedSegMamba's prediction, memory over the paper's": (None, None),
    }


def test_the_documentation_has_the_sections_and_their_limits():
    page = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \| .* \| (\d+) \|$", page, re.MULTILINE)
    assert documented == [(section.name, f"{section.seconds:g}") for section in all_sections(1)]


def test_nothing_measured_nothing_reached():
    assert {row["reached"] for row in against_targets({})} == {None}


def test_rows_of_different_keys_share_a_table():
    rows = [{"a": 1.23456, "b": True}, {"a": 12345.6, "c": "x | y\nz", "b": False}, {"c": None}]
    assert table(rows).splitlines() == [
        "| a | b | c |",
        "| --- | --- | --- |",
        "| 1.23 | yes | - |",
        "| 12,346 | **NO** | x \\| y z |",
        "| - | - | - |",
    ]


@pytest.mark.parametrize(("device", "said"), [("cuda", "on the GPU"), ("cpu", "no figure means anything")])
def test_summary(device, said):
    report = {
        "date": "2026-11-29",
        "device": device,
        "packed": {"commit": "abc", "changed": True, "date": "2026-11-28"},
        "stopped": "no compiler",
        "sections": [
            section("speed", ROWS["speed"], **{NEEDS_CUDA: ["one", "two"]}),
            section("rival", [], status="failed", errors={"all": "first\nValueError: last"}),
            section("other", [], **{NOT_POSSIBLE: ["the reason"]}),
        ],
    }
    text = summary(report)
    for expected in (
        *(said, "Commit abc with changes, packed 2026-11-28.", "**Stopped:** no compiler", "## Figures promised"),
        *("| The speed | passed | 1.5 | 60 |", "Needs CUDA: one; two.", "Not possible here: the reason"),
        *("## The rival", "ValueError: last", "| scan, triton | SegMamba stage 1 | 1.9 | 4.5 |"),
    ):
        assert expected in text


def test_the_tables_of_a_file_are_printed_again(tmp_path, capsys):
    report = {"date": "2026-11-29", "device": "cuda", "sections": [section("speed", ROWS["speed"])]}
    (tmp_path / "results.json").write_text(json.dumps(report))
    assert gpu_suite.main(["--summary", str(tmp_path / "results.json")]) == 0
    assert capsys.readouterr().out.strip() == summary(report).strip()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--summary", "nothing.json"], "No such file or directory: 'nothing.json'"),
        (["--summary", "empty.json"], "empty.json is no valid JSON"),
        (["--summary", "other.json"], "other.json has no results of this suite; give it a gpu_suite.json"),
        (["--out", "empty.json"], "File exists: 'empty.json'"),
        (["--out", "x", "--minutes", "0"], "--processes and --minutes must be above 0"),
        (["--out", "x", "--only", "all"], "invalid choice: 'all'"),
        ([], "one of the arguments --out --summary is required"),
    ],
)
def test_bad_arguments_get_a_line(tmp_path, monkeypatch, capsys, arguments, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.json").touch()
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(SystemExit, match="2"):
        gpu_suite.main(arguments)
    assert line in capsys.readouterr().err.splitlines()[-1]
