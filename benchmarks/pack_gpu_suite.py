"""Pack `gpu_suite.py` and what it needs beside torch, triton and numpy into one archive, for a machine without network.

    python benchmarks/pack_gpu_suite.py [--out nnunetv2_mamba_gpu_suite.tar.gz]

There: `tar xf nnunetv2_mamba_gpu_suite.tar.gz && cd nnunetv2_mamba_gpu_suite && python gpu_suite.py --out DIR`.

Packed are this checkout's package and tests/gpu, from the environment that runs this program the pure Python packages
`VENDORED` and of nnU-Net its losses alone, and the planner's estimates of memory, which only nnU-Net as a whole can
make; they take some minutes. Nothing compiled is packed, so that the archive fits every version of Python.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from functools import partial
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from gpu_sections import places

CHECKOUT = Path(__file__).resolve().parents[1]
LARGEST_MIB = 60
# What goes where: files that git knows, by the start of their paths.
PLACES = {
    "benchmarks/gpu_suite.py": "gpu_suite.py",
    "benchmarks/gpu_sections/": "gpu_sections/",
    "benchmarks/networks.py": "networks.py",
    "benchmarks/published.py": "published.py",
    "nnunetv2_mamba/": "nnunetv2_mamba/",
    "tests/gpu/": "tests/gpu/",
    "tests/ops/scan_cases.py": "tests/ops/scan_cases.py",
    "tests/compiled_ddp.py": "tests/compiled_ddp.py",
    "tests/compiled_steps.py": "tests/compiled_steps.py",
    "tests/registered_networks.py": "tests/registered_networks.py",
    "pyproject.toml": "pyproject.toml",
    "LICENSE": "LICENSE",
}
VENDORED = ("dynamic-network-architectures", "pytest", "pluggy", "iniconfig", "packaging", "pygments")
COMPILED = (".so", ".pyd", ".dll", ".dylib")
# Of nnU-Net, whose dependencies are many and compiled, what the suite's training step imports.
NNUNET_MODULES = ("nnunetv2.training.loss.compound_losses", "nnunetv2.training.loss.deep_supervision")
# Prints the files of all modules of nnU-Net that an import of these loads.
FILES_OF_MODULES = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted(m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] == "nnunetv2"), sep="\\n")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("nnunetv2_mamba_gpu_suite.tar.gz"))
    out = parser.parse_args().out
    try:
        size = pack(out, estimates())
    except PackageNotFoundError as error:
        sys.exit(f"{error.name} is not installed; pip install it, or the extra [dev]")
    except ValueError as error:
        sys.exit(str(error))
    print(f"{out}: {size / 2**20:.1f} MiB")


def pack(out: Path, estimated: dict[str, dict[str, int]]) -> int:
    """Write the archive and return its size in bytes.

    Args:
        out: a .tar.gz file; the folder in it has the name up to the first dot.
        estimated: what `estimates` gives.

    Raises:
        PackageNotFoundError: for one of `VENDORED` or nnU-Net that is not installed.
        ValueError: where what would be packed is compiled or too large, or this is no git checkout.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / out.name.partition(".")[0]
        copy_checkout(folder)
        for name in VENDORED:
            copy_distribution(distribution(name), folder / "vendored")
        copy_nnunet(folder / "vendored")
        versions = {name: distribution(name).version for name in (*VENDORED, "nnunetv2")}
        packed = {"date": time.strftime("%Y-%m-%d"), **commit(), "vendored": versions}
        (folder / "packed.json").write_text(json.dumps(packed, indent=2), encoding="utf-8")
        (folder / "estimates.json").write_text(json.dumps(estimated, indent=2), encoding="utf-8")
        compiled = [path.name for path in folder.rglob("*") if path.suffix in COMPILED]
        if compiled:
            raise ValueError(f"{', '.join(compiled)} fits one version of Python only; vendor pure Python packages")
        archive = Path(scratch) / "archive.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, folder.name)
        size = archive.stat().st_size
        if size > LARGEST_MIB * 2**20:
            raise ValueError(f"the archive has {size / 2**20:.0f} MiB, more than {LARGEST_MIB}; what is large in it?")
        shutil.move(archive, out)
    return size


def copy_checkout(folder: Path) -> None:
    """Copy what `PLACES` says, as it is in the working tree."""
    files = git("ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for prefix, place in PLACES.items():
        for name in files:
            source = CHECKOUT / name
            if name.startswith(prefix) and source.exists():
                copy(source, folder / (place + name.removeprefix(prefix)))


def copy_distribution(installed: Distribution, folder: Path) -> None:
    """Copy an installed package: its modules and, into a folder of their own, its licences."""
    for file in installed.files or ():
        source = Path(installed.locate_file(file))
        if ".." in file.parts or "__pycache__" in file.parts or not source.is_file():
            continue
        if file.parts[0].endswith(".dist-info"):
            if "licenses" in file.parts or file.name.startswith(("LICENSE", "LICENCE", "COPYING")):
                copy(source, folder / "licenses" / installed.name / file.name)
        else:
            copy(source, folder / Path(*file.parts))


def copy_nnunet(folder: Path) -> None:
    """Copy the modules of nnU-Net that `NNUNET_MODULES` load, and its licence."""
    command = [sys.executable, "-c", FILES_OF_MODULES, *NNUNET_MODULES]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for file in map(Path, printed.splitlines()):
        start = max(
            index for index, part in enumerate(file.parts) if part == "nnunetv2"
        )  # no module below has its name
        copy(file, folder / Path(*file.parts[start:]))
    installed = distribution("nnunetv2")
    for file in installed.files or ():
        if file.parts[0].endswith(".dist-info") and file.name.startswith("LICENSE"):
            copy(Path(installed.locate_file(file)), folder / "licenses" / "nnunetv2" / file.name)


def copy(source: Path, target: Path) -> None:
    """Copy a file into folders that are made where they are missing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def commit() -> dict[str, object]:
    """The commit of the checkout, and whether files that git knows have changed since."""
    changed = bool(git("status", "--porcelain", "--untracked-files=no").strip())
    return {"commit": git("rev-parse", "--short=12", "HEAD").strip(), "changed": changed}


def git(*arguments: str) -> str:
    """What git prints about the checkout."""
    try:
        return subprocess.run(["git", "-C", CHECKOUT, *arguments], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(f"{CHECKOUT} must be a git checkout, from which files are packed ({error})") from error


def estimates() -> dict[str, dict[str, int]]:
    """Bytes that the planner expects for a training step and for a prediction, by network."""
    from networks import ONE_OF_EACH, OURS

    from nnunetv2_mamba.memory.estimate import inference_memory, training_memory

    found = {}
    for name, network in {**OURS, **ONE_OF_EACH}.items():
        shape = (network.channels, *(network.edge,) * 3)
        training = training_memory(partial(network.build, deep_supervision=True), (2, *shape), network.optimizer)
        prediction = inference_memory(partial(network.build, deep_supervision=False), (1, *shape))
        found[name] = {"training": training.total, "prediction": prediction.total}
        print(f"{name}: {training.total / 2**20:,.0f} and {prediction.total / 2**20:,.0f} MiB", flush=True)
    return found


if __name__ == "__main__":
    places.make_importable()
    main()
