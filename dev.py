"""Set up this checkout and run it as a user would: ``python dev.py demo`` or ``python dev.py test``.

Needs nothing but Python 3.10 or newer with pip. Installs the package, not editable, into ``.venv`` here, and runs from
inside that folder, so that what runs is the installed package. ``python dev.py wheels`` builds every system's wheel, by
the tools that it installs into ``.venv-wheels``.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "installed-sources.sha256"
SOURCES = ("pyproject.toml", "README.md", "hatch_build.py", "nnunetv2_mamba.pth", "nnunetv2_mamba/**/*")
WHEEL_TOOLS = ROOT / "wheels/requirements.txt"
USAGE = (
    "usage: python dev.py demo | python dev.py test [tests/FILE ...] [pytest options] | "
    "python dev.py wheels [FOLDER] [--only PLATFORM ...]"
)


def main() -> int:
    """Install what has changed, run the demo, the tests or the build of the wheels, and return its exit code."""
    if sys.version_info < (3, 10):  # noqa: UP036  (this file runs before pip checks it)
        return _fail(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}")
    verb, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if verb == "wheels":
        return _build_wheels(arguments)
    if verb not in ("demo", "test") or (verb == "demo" and arguments):
        return _fail(USAGE)
    if not _set_up():
        return 1
    if verb == "demo":
        return _run("-m", "nnunetv2_mamba", "demo", "-o", ROOT / "demo")
    paths = [argument for argument in arguments if argument.startswith("tests")]
    options = [argument for argument in arguments if argument not in paths]
    os.environ["OMP_NUM_THREADS"] = "1"  # each of pytest's processes
    command = ["-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, "-m", "not slow", "-n", "auto"]
    command += ["--maxprocesses", "4", "--dist", "worksteal"]  # so that all processes end together
    return _run(*command, *options, *[ROOT / path for path in paths or ["tests"]])


def _set_up() -> bool:
    """Make the environment and install the sources if they are not the ones already in it."""
    if not _made(VENV):
        return False
    sources = _fingerprint()
    if STAMP.exists() and STAMP.read_text() == sources:
        return True
    STAMP.unlink(missing_ok=True)  # what pip leaves when it fails is of neither sources
    print("Installing the package and what it needs (the first time about 8 GB with PyTorch)", flush=True)
    if _run("-m", "pip", "install", f"{ROOT}[dev]"):
        _fail(f"pip could not install the package; its message is above. If {VENV} is damaged, delete it")
        return False
    STAMP.write_text(sources)
    return True


def _build_wheels(arguments: list[str]) -> int:
    environment = VENV.with_name(".venv-wheels")
    python = environment / PYTHON.relative_to(VENV)
    if not _made(environment):
        return 1
    if subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", WHEEL_TOOLS], check=False).returncode:
        return _fail("pip could not install the tools; its message is above")
    return subprocess.run([python, ROOT / "wheels/build.py", *arguments], check=False).returncode


def _made(environment: Path) -> bool:
    """Make a virtual environment where there is none."""
    if not (environment / PYTHON.relative_to(VENV)).exists():
        print(f"Making {environment}", flush=True)
        if subprocess.run([sys.executable, "-m", "venv", environment], check=False).returncode:
            _fail("no virtual environment could be made; on Debian and Ubuntu `apt install python3-venv` provides it")
            return False
    return True


def _run(*arguments: object) -> int:
    return subprocess.run([PYTHON, *map(str, arguments)], cwd=VENV, check=False).returncode


def _fingerprint() -> str:
    files = {path for pattern in SOURCES for path in ROOT.glob(pattern) if path.is_file()}
    digest = hashlib.sha256()
    for path in sorted(path for path in files if "__pycache__" not in path.parts):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _fail(message: str) -> int:
    print(f"dev.py: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
