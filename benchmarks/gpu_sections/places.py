"""Where the suite finds what it needs: in a checkout, or in the archive of ``pack_gpu_suite.py``."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]  # the folder of gpu_suite.py: benchmarks/ of a checkout, or the archive
ROOT = next(folder for folder in (HERE, HERE.parent) if (folder / "nnunetv2_mamba").is_dir())
VENDORED = HERE / "vendored"
ESTIMATES = HERE / "estimates.json"
PACKED = HERE / "packed.json"


def make_importable() -> None:
    """Let this process import the package beside the suite and, where they are not installed, what was packed with it.

    What is installed comes before what was packed, but for the package itself. Where another version of that is
    installed, every Python process has imported it at its start (see ``nnunetv2_mamba/_register.py``).
    """
    started_with = sys.modules.get("nnunetv2_mamba")
    used = "nnunetv2_mamba.ops" in sys.modules  # operators can be registered once: a process keeps those that it has
    if started_with is not None and not used and Path(started_with.__file__).resolve().parents[1] != ROOT:
        for name in [name for name in sys.modules if name.partition(".")[0] == "nnunetv2_mamba"]:
            del sys.modules[name]
    for folder in (HERE, ROOT):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    if VENDORED.is_dir() and str(VENDORED) not in sys.path:
        sys.path.append(str(VENDORED))
