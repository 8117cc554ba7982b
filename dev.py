"""Set up this checkout and run it as a user would: ``python dev.py demo`` or ``python dev.py test``.

Needs nothing but Python 3.10 or newer with pip. Installs the package, not editable, into ``.venv`` here, and runs from
inside that folder, so that what runs is the installed package. More arguments go to the demo or to pytest.
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
USAGE = "usage: python dev.py {demo,test} [arguments]"


def main() -> int:
    """Install what has changed, run the demo or the tests and return their exit code."""
    if sys.version_info < (3, 10):  # noqa: UP036  (this file runs before pip checks it)
        return _fail(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}")
    if len(sys.argv) < 2 or sys.argv[1] not in ("demo", "test"):
        return _fail(USAGE)
    verb, arguments = sys.argv[1], sys.argv[2:]
    if not _set_up():
        return 1
    if verb == "demo":
        command = ["-m", "nnunetv2_mamba", "demo", *(arguments or ["-o", str(ROOT / "demo")])]
    else:
        options = ["-m", "not slow", "-n", "auto", "--maxprocesses", "4"]
        command = ["-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), *options]
        command += arguments or [str(ROOT / "tests")]
    one_thread_per_worker = {"OMP_NUM_THREADS": "1"} if verb == "test" else {}
    return subprocess.run([PYTHON, *command], cwd=VENV, env=os.environ | one_thread_per_worker, check=False).returncode


def _set_up() -> bool:
    """Make the environment and install the sources if they are not the ones already in it."""
    if not PYTHON.exists():
        print(f"Making {VENV}", flush=True)
        if subprocess.run([sys.executable, "-m", "venv", VENV], check=False).returncode:
            _fail("no virtual environment could be made; on Debian and Ubuntu `apt install python3-venv` provides it")
            return False
    sources = _fingerprint()
    if STAMP.exists() and STAMP.read_text() == sources:
        return True
    print("Installing the package and what it needs (the first time about 8 GB with PyTorch)", flush=True)
    if subprocess.run([PYTHON, "-m", "pip", "install", f"{ROOT}[dev]"], check=False).returncode:
        _fail("pip could not install the package; its message is above")
        return False
    STAMP.write_text(sources)
    return True


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
