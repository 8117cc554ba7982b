"""``nnunetv2_mamba doctor``: examines an installation and says what to do where something is wrong."""

from .compiler import compilation
from .computation import devices
from .findings import PROBLEM, guarded
from .packages import versions
from .registration import extensions, folders, start_up, trainers

__all__ = ["CHECKS", "examine"]

CHECKS = (versions, folders, start_up, extensions, trainers, devices, compilation)


def examine() -> int:
    """Print every finding and return the exit code: 1 if one of them is a problem."""
    problems = 0
    for check in CHECKS:
        for finding in guarded(check.__name__, check()):
            print(f"{finding.verdict:<9}{finding.subject:<22}{finding.text}", flush=True)
            if finding.remedy is not None:
                print(f"{'':<9}remedy: {finding.remedy}", flush=True)
            problems += finding.verdict == PROBLEM
    print("\nEverything works." if not problems else f"\nProblems: {problems}")
    return 1 if problems else 0
