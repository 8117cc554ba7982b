"""What runs inside a challenge's container: ``python -m nnunetv2_mamba.packaging.container inference.json``.

It segments what is in the input folder and ends; with ``serve`` it does so whenever grand-challenge's invoke API asks.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..processes import Ended, signals_raise
from ..text import first_paragraph, printable
from .case_report import line_of_case
from .checksums import SHA256SUMS, check_files
from .inference_settings import InferenceSettings
from .invoke_server import PORT, Work, serve
from .platforms import PLATFORMS, CaseFiles

if TYPE_CHECKING:
    from .case_predictor import CasePredictor


@dataclass(frozen=True)
class Job:
    """What a container is there for: its settings, the folders that it works in, and the list of the model's files."""

    settings: InferenceSettings
    input: Path
    output: Path
    model: Path
    checksums: Path

    def find_cases(self) -> list[CaseFiles]:
        """All cases of the input folder, whose results can be written.

        Raises:
            OSError, ValueError: naming the folder or file that is not as it should be.
        """
        from .image_io import check_writable  # takes seconds, which count as the first case's

        cases = PLATFORMS[self.settings.platform].find_cases(self.input, self.output, self.settings)
        for folder in {file.parent for case in cases if not case.problem for file in case.files}:
            check_writable(folder)
        return cases

    def load_predictor(self, *, warm: bool = False) -> CasePredictor:
        """The model, where its files are those that were packaged; see the function of this name."""
        if self.checksums.is_file():  # not where the settings were written by hand
            check_files(self.model, self.checksums)
        return load_predictor(self.model, self.settings, warm=warm)


def main(argv: list[str] | None = None) -> int:
    """Segment all cases and return the exit code: 0, or 1 when a case failed or there was none; or serve.

    A case that fails is said on standard error with the name of the file, and the others go on. What nobody foresaw
    comes with a traceback. A signal that ends the process leaves no part of a file.
    """
    started = time.perf_counter()
    args = _parser().parse_args(argv)
    with signals_raise():
        try:
            job = _job(args)
            if args.task == "serve":
                serve(lambda: _load_work(job), args.port)
            cases = job.find_cases()
            predictor = job.load_predictor()
        except Exception as error:  # all that a model's or a user's files may do; one line and exit code 1
            _failure("inference", error)
            return 1
        return 1 if segment_cases(cases, predictor, started) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nnunetv2_mamba.packaging.container", description=__doc__)
    parser.add_argument("settings", type=Path, help="the container's inference.json")
    parser.add_argument(
        "task", nargs="?", choices=["infer", "serve"], help="infer: as MLCube calls it; serve: the invoke API"
    )
    parser.add_argument("--input", "--data_path", type=Path, help="folder (default: the platform's)")
    parser.add_argument("--output", "--output_path", type=Path, help="folder (default: the platform's)")
    parser.add_argument("--weights", type=Path, help="folder of the model (default: the container's)")
    parser.add_argument("--parameters_file", type=Path, help="MLCube may pass it; not used")
    parser.add_argument("--port", type=int, default=PORT, help="of serve (default: %(default)s, the platform's)")
    return parser


def _job(args: argparse.Namespace) -> Job:
    settings = InferenceSettings.read(args.settings)
    if settings.platform not in PLATFORMS:
        known = ", ".join(PLATFORMS)
        raise ValueError(f"{args.settings} is not a container's settings: its platform is none of {known}")
    platform = PLATFORMS[settings.platform]
    return Job(
        settings,
        args.input or Path(platform.input),
        args.output or Path(platform.output),
        args.weights or Path(settings.model),
        args.settings.with_name(SHA256SUMS),
    )


def _load_work(job: Job) -> Work:
    predictor = job.load_predictor(warm=True)

    def work(came: float, is_wanted: Callable[[], bool]) -> Sequence[str]:
        try:
            cases = job.find_cases()
        except Exception as error:  # one request must not take the server with it
            return [_failure("inference", error)]
        return segment_cases(cases, predictor, came, is_wanted)

    return work


def load_predictor(model: Path, settings: InferenceSettings, *, warm: bool = False) -> CasePredictor:
    """The model, ready for its first case.

    Args:
        model: its folder, or the one that has the folders of several.
        warm: run a pass of the network, so that nothing is compiled in the time of the first case; a model with a time
            budget does that in any case.
    """
    from .case_predictor import CasePredictor  # after arguments and inputs are found good: torch takes seconds
    from .device_line import device_line

    problem = _why_no_gpu()
    device = "cuda" if problem is None else "cpu"
    if settings.gpu and problem is not None:
        print(f"inference: NO GPU, so it runs on the CPU, many times slower: {problem}", file=sys.stderr)
    folders = [model / member.name for member in settings.choices.models]
    predictor = CasePredictor(folders, settings.choices, device)
    if warm or settings.choices.time_budget is not None:
        predictor.warm_up()
    print(device_line(device, predictor.model.network, settings.choices.precision), flush=True)
    return predictor


def _why_no_gpu() -> str | None:
    """The reason; None where a GPU computes."""
    import torch

    from ..ops.device_errors import is_passing

    try:
        torch.cuda.init()  # says what is_available() keeps to itself: no device, or a driver too old for this CUDA
        if not torch.cuda.is_available():
            return f"PyTorch {torch.__version__} sees no device"
        torch.ones(1, device="cuda").add(1).item()  # PyTorch may be built for newer GPUs only
    except (AssertionError, RuntimeError) as error:
        return None if is_passing(error) else first_paragraph(error)
    return None


def segment_cases(
    cases: Sequence[CaseFiles],
    predictor: CasePredictor,
    started: float,
    is_wanted: Callable[[], bool] = lambda: True,
) -> list[str]:
    """Write the segmentations of all cases; what failed, a line each, as it is said on standard error.

    Args:
        started: on ``time.perf_counter``, when the first case's time budget began.
        is_wanted: asked before a file gets its name; where nobody wants it any more, that is the case's failure.
    """
    failures = []
    for case in cases:
        try:
            segment_case(case, predictor, started, is_wanted)
        except Exception as error:  # one case must not take the others with it
            failures.append(_failure(case.name, error, case))
        started = time.perf_counter()
    print(f"{len(cases) - len(failures)} of {len(cases)} cases done", flush=True)
    return failures


def segment_case(case: CaseFiles, predictor: CasePredictor, started: float, is_wanted: Callable[[], bool]) -> None:
    """Write a case's files; raises what is wrong with it. Arguments are those of ``segment_cases``."""
    from .case_writing import write_case  # takes seconds

    if case.problem:
        raise ValueError(case.problem)
    result = write_case(case, predictor, started, is_wanted)
    seconds = time.perf_counter() - started
    print(line_of_case(case.name, case.output, result.how, result.image.GetSize(), seconds), flush=True)
    name = printable(case.name)
    for note in result.notes:
        print(f"{name}: NOTE: {printable(note)}", file=sys.stderr)
    if not result.complete:
        print(f"{name}: INCOMPLETE: the time budget is too small; a part is left background", file=sys.stderr)


def _failure(name: str, error: Exception, case: CaseFiles | None = None) -> str:
    message = " ".join(str(error).split())
    if not isinstance(error, (OSError, ValueError, FloatingPointError, pickle.UnpicklingError)):
        traceback.print_exception(error)
        message = f"{type(error).__name__}: {message}"
    if case and not any(str(file) in message for file in (*case.images, *case.files)):
        message += f" ({', '.join(map(str, case.images))})"
    line = f"{printable(name)}: FAILED: {printable(message)}"
    print(line, file=sys.stderr, flush=True)
    return line


if __name__ == "__main__":
    try:
        code = main()
    except Ended as ended:  # all is written or removed, and Python's own end takes seconds that a platform may not give
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code)
    sys.exit(code)
