"""What runs inside a challenge's container: ``python -m nnunetv2_mamba.packaging.container inference.json``."""

from __future__ import annotations

import argparse
import pickle
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..text import printable
from .image_io import check_writable, write_atomically
from .inference_settings import InferenceSettings
from .platforms import PLATFORMS, CaseFiles

if TYPE_CHECKING:
    from .case_predictor import CasePredictor


def main(argv: list[str] | None = None) -> int:
    """Segment all cases and return the exit code: 0, or 1 when a case failed or there was none.

    A case that fails is said on standard error with the name of the file, and the others go on. What nobody foresaw
    comes with a traceback.
    """
    started = time.perf_counter()
    args = _parser().parse_args(argv)
    try:
        settings = InferenceSettings.read(args.settings)
        if settings.platform not in PLATFORMS:
            known = ", ".join(PLATFORMS)
            raise ValueError(f"{args.settings} is not a container's settings: its platform is none of {known}")
        platform = PLATFORMS[settings.platform]
        output = args.output or Path(platform.output)
        cases = platform.find_cases(args.input or Path(platform.input), output, settings)
        for folder in {case.output.parent for case in cases if not case.problem}:
            check_writable(folder)
        predictor = load_predictor(args.weights or Path(settings.model), settings)
    except Exception as error:  # all that a model's or a user's files may do; one line and exit code 1
        return _failure("inference", error)
    return segment_cases(cases, predictor, started)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nnunetv2_mamba.packaging.container", description=__doc__)
    parser.add_argument("settings", type=Path, help="the container's inference.json")
    parser.add_argument("task", nargs="?", choices=["infer"], help="as MLCube calls it")
    parser.add_argument("--input", "--data_path", type=Path, help="folder (default: the platform's)")
    parser.add_argument("--output", "--output_path", type=Path, help="folder (default: the platform's)")
    parser.add_argument("--weights", type=Path, help="folder of the model (default: the container's)")
    parser.add_argument("--parameters_file", type=Path, help="MLCube may pass it; not used")
    return parser


def load_predictor(model: Path, settings: InferenceSettings) -> CasePredictor:
    """The model, ready for its first case."""
    import torch  # after the arguments and inputs are found good: it takes seconds

    from .case_predictor import CasePredictor

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if settings.gpu and device == "cpu":
        print(f"inference: NO GPU, so it runs on the CPU, many times slower: {_why_no_gpu()}", file=sys.stderr)
    predictor = CasePredictor(model, settings.choices, device)
    if settings.choices.time_budget is not None:
        predictor.warm_up()
    print(f"on {torch.cuda.get_device_name() if device == 'cuda' else 'the CPU'}", flush=True)
    return predictor


def _why_no_gpu() -> str:
    import torch

    try:
        torch.cuda.init()  # says what is_available() keeps to itself: no device, or a driver too old for this CUDA
    except (AssertionError, RuntimeError) as error:
        return " ".join(str(error).split())
    return f"PyTorch {torch.__version__} sees no device"


def segment_cases(cases: Sequence[CaseFiles], predictor: CasePredictor, started: float) -> int:
    """Write all segmentations and return the exit code, as ``main``.

    Args:
        started: on ``time.perf_counter``, when the first case's time budget began.
    """
    failed = 0
    for case in cases:
        try:
            segment_case(case, predictor, started)
        except Exception as error:  # one case must not take the others with it
            failed += _failure(case.name, error, case)
        started = time.perf_counter()
    print(f"{len(cases) - failed} of {len(cases)} cases done", flush=True)
    return 1 if failed else 0


def segment_case(case: CaseFiles, predictor: CasePredictor, started: float) -> None:
    """Write a case's segmentation; raises what is wrong with it.

    Args:
        started: on ``time.perf_counter``, when the case's time budget began.
    """
    if case.problem:
        raise ValueError(case.problem)
    result = predictor.segment(case.images, started, previous=case.previous)
    write_atomically(result.image, case.output)
    name, seconds = printable(case.name), time.perf_counter() - started
    print(f"{name}: {printable(case.output)}, {result.how}, {seconds:.1f} s", flush=True)
    for note in result.notes:
        print(f"{name}: NOTE: {printable(note)}", file=sys.stderr)
    if not result.complete:
        print(f"{name}: INCOMPLETE: the time budget is too small; a part is left background", file=sys.stderr)


def _failure(name: str, error: Exception, case: CaseFiles | None = None) -> int:
    message = " ".join(str(error).split())
    if not isinstance(error, (OSError, ValueError, pickle.UnpicklingError)):
        traceback.print_exception(error)
        message = f"{type(error).__name__}: {message}"
    if case and not any(str(file) in message for file in (*case.images, case.output)):
        message += f" ({', '.join(map(str, case.images))})"
    print(f"{printable(name)}: FAILED: {printable(message)}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
