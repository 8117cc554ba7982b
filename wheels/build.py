"""Build the source distribution and every system's wheel on this machine, and check them: ``python dev.py wheels``.

The wheels are made from the source distribution, without a network. The same sources and tools give the same bits.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from audit import problems_of, summary

ROOT = Path(__file__).resolve().parents[1]
PURE = "any"  # for systems without a wheel: compiled on first use, where that is possible
sys.path.insert(0, str(ROOT / "nnunetv2_mamba/ops/backends"))  # not the package, which needs torch
from cpu_build import WHEELS  # noqa: E402


def main() -> int:
    """Build, check, print a line for each file, and return 1 if one is not as it should be."""
    parser = argparse.ArgumentParser(prog="dev.py wheels", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist", help="where to (default: dist)")
    parser.add_argument("--only", action="append", choices=(*WHEELS, PURE), help="this wheel; can be repeated")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if old := [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]:
        parser.error(f"{folder} has a {old[0].name} already: delete it, or name another folder")

    _build("--sdist", ROOT, folder)
    (sources,) = folder.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as unpacked:
        with tarfile.open(sources) as archive:
            archive.extractall(unpacked)
        (root,) = Path(unpacked).iterdir()
        for platform in arguments.only or (*WHEELS, PURE):
            print(f"Building the wheel for {platform}", flush=True)
            kernels = {"NNUNETV2_MAMBA_BUILD_KERNEL": "0"} if platform == PURE else {"NNUNETV2_MAMBA_WHEEL": platform}
            _build("--wheel", root, folder, kernels)

    files = sorted([*folder.glob("*.whl"), sources])
    problems = [problem for file in files for problem in problems_of(file)]
    print(*map(summary, files), *problems, sep="\n")
    failed = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=False).returncode
    return 1 if problems or failed else 0


def _build(kind: str, root: Path, folder: Path, kernels: dict[str, str] | None = None) -> None:
    left_out = ("NNUNETV2_MAMBA_BUILD_KERNEL", "NNUNETV2_MAMBA_WHEEL", "SOURCE_DATE_EPOCH")  # hatchling has a date
    environment = {name: value for name, value in os.environ.items() if name not in left_out} | (kernels or {})
    command = [sys.executable, "-m", "build", "--no-isolation", kind, "--outdir", folder, root]
    if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
        raise SystemExit(f"dev.py wheels: {' '.join(map(str, command))} failed; its message is above")


if __name__ == "__main__":
    sys.exit(main())
