"""What runs inside a challenge's container: ``python -m nnunetv2_mamba.packaging.run inference.json``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from . import adapters
from .settings import Settings


def main(argv: list[str] | None = None) -> int:
    """Segment all cases and return the exit code: 0, or 1 when a case failed or there was none.

    A case that fails is said on standard error with the name of the file, and the others go on.
    """
    started = time.perf_counter()
    args = _parser().parse_args(argv)
    try:
        settings = Settings.read(args.settings)
        adapter = adapters.load(settings.platform)
        output = args.output or adapter.OUTPUT
        cases = adapter.find_cases(args.input or adapter.INPUT, output, settings)
        predictor = _predictor(args.weights or Path(settings.model), settings)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        return _failure("inference", error)
    failed = 0
    for case in cases:
        try:
            _segment(case, predictor, started)
        except (OSError, ValueError, RuntimeError) as error:
            failed += _failure(case.name, error)
        started = time.perf_counter()
    print(f"{len(cases) - failed} of {len(cases)} cases done", flush=True)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nnunetv2_mamba.packaging.run", description=__doc__)
    parser.add_argument("settings", type=Path, help="the container's inference.json")
    parser.add_argument("task", nargs="?", choices=["infer"], help="as MLCube calls it")
    parser.add_argument("--input", "--data_path", type=Path, help="folder (default: the platform's)")
    parser.add_argument("--output", "--output_path", type=Path, help="folder (default: the platform's)")
    parser.add_argument("--weights", type=Path, help="folder of the model (default: the container's)")
    parser.add_argument("--parameters_file", type=Path, help="MLCube may pass it; not used")
    return parser


def _predictor(model: Path, settings: Settings):
    import torch  # after the arguments and inputs are found good: it takes seconds

    from .predictor import CasePredictor

    return CasePredictor(model, settings.choices, "cuda" if torch.cuda.is_available() else "cpu")


def _segment(case: adapters.Case, predictor, started: float) -> None:
    from .images import write_atomically

    result = predictor.segment(case.images, started)
    write_atomically(result.image, case.output)
    print(f"{case.name}: {case.output}, {result.how}, {time.perf_counter() - started:.1f} s", flush=True)
    if not result.complete:
        print(f"{case.name}: INCOMPLETE: the time budget is too small; a part is left background", file=sys.stderr)


def _failure(name: str, error: Exception) -> int:
    print(f"{name}: FAILED: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
