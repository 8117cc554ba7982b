"""Whatever a section does, the results of the others are there, and the exit code says it."""

import json
import os
import time
from pathlib import Path

import pytest
from gpu_sections import runner
from gpu_sections.context import NEEDS_CUDA, NOT_POSSIBLE
from gpu_sections.environment import GPU_MEMORY
from gpu_sections.runner import Suite
from gpu_sections.sections import Section


@pytest.fixture
def suite(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return Suite("cuda", tmp_path, 600, module="made_up_job")


def section(name: str, *jobs: str, seconds: float = 300, **others) -> Section:
    return Section(name, name.title(), seconds, jobs, **others)


def written(suite: Suite) -> dict:
    return json.loads((suite.out / "gpu_suite.json").read_text())


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def clock(suite, monkeypatch):
    """Lets five minutes pass as soon as the first job hangs and all others that were started have ended."""
    jobs, start, passed = [], suite._start, []

    def started(*arguments):
        jobs.append(start(*arguments))
        return jobs[-1]

    def slept(seconds: float) -> None:
        time.sleep(seconds)
        hangs = not passed and jobs[0].rows.read_text().count("\n") > 1
        if hangs and all(job.process.poll() is not None for job in jobs[1:]):
            passed.append(300)

    monkeypatch.setattr(suite, "_start", started)
    monkeypatch.setattr(runner, "sleep", slept)
    monkeypatch.setattr(runner, "monotonic", lambda: time.monotonic() + sum(passed))
    suite.seconds = 1e4


def test_results_are_written_after_every_section(suite):
    seen = []
    code = suite.run(
        (section("one", "passes"), section("two", "passes")), lambda line: seen.append(len(written(suite)["sections"]))
    )
    assert code == 0
    assert seen == [1, 2]
    assert "## One" in (suite.out / "gpu_suite.md").read_text()


@pytest.mark.parametrize(
    ("job", "error"),
    [
        ("raises", "ValueError: on purpose"),
        ("crashes", "the process was ended by signal 11\nlast words"),
        ("wrong", None),
    ],
)
def test_a_failure_keeps_what_was_found_and_the_next_section_runs(suite, job, error):
    assert suite.run((section("bad", "passes", job), section("good", "passes"))) == 1
    bad, good = written(suite)["sections"]
    assert (bad["status"], good["status"]) == ("failed", "passed")
    assert [row["job"] for row in bad["rows"]] == ["passes", job]
    assert error is None or bad["errors"][job].endswith(error)
    assert error is None or error.splitlines()[-1] in (suite.out / "gpu_suite.md").read_text()


def test_a_section_that_hangs_is_ended_with_all_its_processes(suite, clock):
    assert suite.run((section("slow", "hangs", "passes"), section("good", "passes", seconds=1e3))) == 1
    slow, good = written(suite)["sections"]
    assert (slow["status"], good["status"]) == ("overran", "passed")
    first, child, other = slow["rows"]
    assert (first["job"], other["job"]) == ("hangs", "passes")
    assert not is_alive(child["child"])
    assert slow["errors"] == {"hangs": "ended after 300 s, the section's limit"}


def test_no_process_of_a_finished_job_is_left(suite):
    assert suite.run((section("one", "leaves"),)) == 0
    assert not is_alive(written(suite)["sections"][0]["rows"][1]["child"])


def test_jobs_that_had_no_turn_are_named(suite, clock, monkeypatch):
    monkeypatch.setattr(runner.os, "cpu_count", lambda: 1)
    assert suite.run((section("slow", "hangs", "passes"),)) == 1
    assert written(suite)["sections"][0]["errors"]["passes"] == "not started within 300 s, the section's limit"


def test_sections_after_the_last_minute_are_not_started(suite):
    suite.seconds = 0.5
    assert suite.run((section("late", "passes"),)) == 1
    (late,) = written(suite)["sections"]
    assert late["status"] == "not started"
    assert "--only late" in late["errors"]["all"]


def test_a_dry_run_has_no_last_minute(suite):
    suite.device, suite.seconds = "cpu", 0.5
    assert suite.run((section("late", "passes"),)) == 0


@pytest.mark.parametrize("job", ["wrong", "crashes"])
def test_what_is_needed_stops_the_rest_with_the_reason(suite, job):
    shown = []
    assert suite.run((section("first", "passes", job, stopped_by=(job,)), section("rest", "passes")), shown.append) == 2
    report = written(suite)
    assert [each["section"] for each in report["sections"]] == ["first"]
    assert report["stopped"] == {"wrong": "something of wrong", "crashes": "last words"}[job]
    assert shown[-1] == f"Stopped: {report['stopped']}"
    assert report["stopped"] in (suite.out / "gpu_suite.md").read_text()


def test_another_job_of_that_section_does_not_stop_the_rest(suite):
    assert suite.run((section("first", "passes", "wrong", stopped_by=("passes",)), section("rest", "passes"))) == 1
    assert len(written(suite)["sections"]) == 2


@pytest.mark.parametrize(
    ("job", "status", "code"),
    [(NEEDS_CUDA, NEEDS_CUDA, 0), (NOT_POSSIBLE, NOT_POSSIBLE, 0), ("says nothing", "failed", 1)],
)
def test_a_section_without_findings_did_not_pass(suite, job, status, code):
    assert suite.run((section("empty", job),)) == code
    (empty,) = written(suite)["sections"]
    assert empty["status"] == status
    assert empty["rows"] == []


def test_one_job_at_a_time_measures_and_no_other_prepares_meanwhile(suite, monkeypatch):
    monkeypatch.setattr(runner.os, "cpu_count", lambda: 3)
    assert suite.run((section("several", "measures 1", "measures 2", "measures 3"),)) == 0
    rows = [row for row in written(suite)["sections"][0]["rows"] if "measuring" in row]
    measured = sorted(row["measuring"] for row in rows)
    assert len(measured) == 3
    busy = sorted(measured + [row["preparing"] for row in rows])
    for start, end in measured:
        others = [other for other in busy if other != [start, end]]
        assert all(other[1] <= start or other[0] >= end for other in others)


@pytest.mark.parametrize(("free", "expected"), [(139.0, 8), (80.0, 5), (10.0, 1)])
def test_the_memory_of_the_gpu_limits_the_jobs_at_a_time(suite, monkeypatch, free, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    suite.report = {"sections": [{"rows": [{"check": GPU_MEMORY, "found": free, "passed": True}]}]}
    assert suite._at_once(section("networks", "x", gib=16.0)) == expected


def test_an_interrupted_suite_leaves_no_process(suite, monkeypatch):
    jobs, start, children = [], suite._start, []

    def started(*arguments):
        jobs.append(start(*arguments))
        return jobs[-1]

    def interrupted_when_the_child_is_there(seconds: float) -> None:
        time.sleep(seconds)
        if len(lines := jobs[0].rows.read_text().splitlines()) > 1:
            children.append(json.loads(lines[1])["child"])
            raise KeyboardInterrupt

    monkeypatch.setattr(suite, "_start", started)
    monkeypatch.setattr(runner, "sleep", interrupted_when_the_child_is_there)
    with pytest.raises(KeyboardInterrupt):
        suite.run((section("slow", "hangs"),))
    assert not is_alive(children[0])
    assert jobs[0].process.poll() is not None
