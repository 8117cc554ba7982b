"""Runs sections: a process for each job, ended when the section's time is over; results written after every section.

Knows nothing of torch, so that it outlives whatever a section does to a GPU, and says so where torch is missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep, strftime
from typing import Any

from nnunetv2_mamba.files import write_json, write_text
from nnunetv2_mamba.processes import end_group, start_group

from . import places
from .context import NEEDS_CUDA, NOT_POSSIBLE
from .environment import GPU_MEMORY
from .job import ERROR
from .sections import Section
from .tables import summary

DRY_PATIENCE = 20  # times a section's limit, which is meant for a GPU
LOG_LINES = 30  # of what a crashed job printed
PASSED, FAILED, OVERRAN, NOT_STARTED = "passed", "failed", "overran", "not started"


@dataclass
class Job:
    """A process at work.

    Attributes:
        name: of the job.
        process: leads a group of its own.
        rows, log: what it writes and what it prints.
    """

    name: str
    process: subprocess.Popen
    rows: Path
    log: Path


@dataclass
class Suite:
    """A run of sections.

    Attributes:
        device: ``"cuda"``, or ``"cpu"`` for a dry run.
        out: the folder of the results.
        seconds: that all may take together; a dry run has no limit.
        module: that is run for each job.
        report: what was found so far, as it is written.
    """

    device: str
    out: Path
    seconds: float
    module: str = "gpu_sections.job"
    report: dict[str, Any] = field(default_factory=dict)

    def run(self, sections: tuple[Section, ...], show: Callable[[str], None] = print) -> int:
        """Run the sections in their order.

        Returns:
            0 if all passed, 1 if one did not, 2 if what is needed was missing and the rest was not started.
        """
        begin = monotonic()
        self.report = {
            "date": strftime("%Y-%m-%d"),
            "device": self.device,
            "packed": json.loads(places.PACKED.read_text()) if places.PACKED.exists() else None,
            "sections": [],
        }
        for section in sections:
            left = float("inf") if self.device == "cpu" else self.seconds - (monotonic() - begin)
            limit = min(section.seconds * (DRY_PATIENCE if self.device == "cpu" else 1), left)
            result = self._run_section(section, limit) if limit > 1 else self._not_started(section)
            self.report["sections"].append(result)
            self.report["seconds"] = monotonic() - begin
            if result["stopped by"]:
                self.report["stopped"] = result["stopped by"]
            self._write()
            show(f"{result['title']}: {result['status']}, {result['seconds']:.0f} s")
            if result["stopped by"]:
                show(f"Stopped: {result['stopped by']}")
                return 2
        return int(any(section["status"] in (FAILED, OVERRAN, NOT_STARTED) for section in self.report["sections"]))

    def _write(self) -> None:
        write_json(self.out / "gpu_suite.json", self.report)
        write_text(self.out / "gpu_suite.md", summary(self.report))

    def _at_once(self, section: Section) -> int:
        """How many jobs of a section run side by side: by cores, and by the GPU's memory."""
        cores = os.cpu_count() or 1
        found = [row for each in self.report["sections"] for row in each["rows"] if row.get("check") == GPU_MEMORY]
        memory = found[0]["found"] if found and found[0]["passed"] else float("inf")
        return max(1, min(cores, int(min(memory, 1e6) // section.gib)))

    def _not_started(self, section: Section) -> dict[str, Any]:
        error = (
            f"not started: the {self.seconds / 60:g} minutes of the suite are over; run it with --only {section.name}"
        )
        return self._result(section, 0.0, 0.0, {job: [] for job in section.jobs}, {"all": error}, NOT_STARTED)

    def _run_section(self, section: Section, limit: float) -> dict[str, Any]:
        begin, waiting, at_once = monotonic(), list(section.jobs), self._at_once(section)
        running: list[Job] = []
        rows: dict[str, list[dict]] = {}
        errors: dict[str, str] = {}
        with tempfile.TemporaryDirectory(prefix="gpu_suite-") as scratch:
            try:
                while (waiting or running) and monotonic() - begin < limit:
                    while waiting and len(running) < at_once:
                        running.append(self._start(section, waiting.pop(0), Path(scratch), at_once))
                    for job in [job for job in running if job.process.poll() is not None]:
                        running.remove(job)
                        self._collect(job, rows, errors)
                    sleep(0.02)
            finally:
                done = [job for job in running if job.process.poll() is not None]
                for job in running:
                    end_group(job.process, patience=1)
            for job in running:
                ended = "" if job in done else f"ended after {limit:.0f} s, the section's limit"
                self._collect(job, rows, errors, ended)
            overran = len(done) < len(running) or waiting
            errors |= {job: f"not started within {limit:.0f} s, the section's limit" for job in waiting}
        in_order = {job: rows.get(job, []) for job in section.jobs}
        status = OVERRAN if overran else FAILED if errors else PASSED
        return self._result(section, monotonic() - begin, limit, in_order, errors, status)

    def _start(self, section: Section, job: str, scratch: Path, at_once: int) -> Job:
        stem = scratch / f"{section.jobs.index(job)}"
        rows, log = stem.with_suffix(".rows"), stem.with_suffix(".log")
        rows.touch()
        command = [sys.executable, "-m", self.module, section.name, job, "--device", self.device]
        command += ["--rows", str(rows), "--lock", str(scratch / "lock")]
        threads = max(1, (os.cpu_count() or 1) // min(at_once, len(section.jobs)))
        environment = {"TORCHINDUCTOR_COMPILE_THREADS": str(threads), "PYTHONUNBUFFERED": "1", **os.environ}
        with log.open("w") as output:
            process = start_group(
                command,
                cwd=places.HERE,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        return Job(job, process, rows, log)

    def _collect(self, job: Job, rows: dict[str, list[dict]], errors: dict[str, str], ended: str = "") -> None:
        """Add what a job that is over has found and, where it failed, its traceback or what it printed last."""
        end_group(job.process, patience=0)  # processes that it started and left
        found = written_rows(job.rows)
        rows[job.name] = [row for row in found if ERROR not in row]
        raised = [row[ERROR] for row in found if ERROR in row]
        code = job.process.returncode
        if ended:
            errors[job.name] = ended
        elif raised:
            errors[job.name] = raised[0]
        elif code:
            printed = job.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            errors[job.name] = "\n".join([f"the process {how}", *printed])

    def _result(
        self,
        section: Section,
        seconds: float,
        limit: float,
        rows: dict[str, list[dict]],
        errors: dict[str, str],
        status: str,
    ) -> dict[str, Any]:
        """The section as it stands in the report; a row that did not pass is a failure as well."""
        failed = [job for job, found in rows.items() if any(row.get("passed") is False for row in found)]
        every = [row for found in rows.values() for row in found]
        left_out = list(dict.fromkeys(row[NEEDS_CUDA] for row in every if NEEDS_CUDA in row))
        reasons = [row[NOT_POSSIBLE] for row in every if NOT_POSSIBLE in row]
        findings = [row for row in every if NEEDS_CUDA not in row and NOT_POSSIBLE not in row]
        if status == PASSED and not every:
            errors = {"all": "nothing was found, and nothing said why"}
        if status == PASSED and (failed or errors):
            status = FAILED
        elif status == PASSED and not findings:
            status = NOT_POSSIBLE if reasons else NEEDS_CUDA
        needed = [job for job in section.stopped_by if job in failed or job in errors or status == NOT_STARTED]
        return {
            "section": section.name,
            "title": section.title,
            "status": status,
            "seconds": seconds,
            "limit s": limit,
            "stopped by": "; ".join(_reasons(rows, errors, needed)) or None,
            "rows": findings,
            NEEDS_CUDA: left_out,
            NOT_POSSIBLE: reasons,
            "errors": errors,
        }


def written_rows(path: Path) -> list[dict[str, Any]]:
    """What a job wrote; a last line that it did not finish is left out."""
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]


def _reasons(rows: dict[str, list[dict]], errors: dict[str, str], jobs: list[str]) -> list[str]:
    """What failed of these jobs, a line each."""
    found = [str(row.get("found")) for job in jobs for row in rows[job] if row.get("passed") is False]
    return found + [errors[job].strip().splitlines()[-1] for job in jobs if job in errors]
