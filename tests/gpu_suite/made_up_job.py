"""In the place of ``gpu_sections.job``: a job that does what its name says, without torch."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gpu_sections.context import NEEDS_CUDA, NOT_POSSIBLE, Context, GpuLock


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("section", "job"):
        parser.add_argument(name)
    for name in ("--device", "--rows", "--lock"):
        parser.add_argument(name)
    given = parser.parse_args()
    with Path(given.rows).open("a") as file:

        def emit(row: dict) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        return act(given.job.split()[0], Context(given.device, emit, GpuLock(Path(given.lock))), file)


def act(what: str, context: Context, file) -> int:
    context.emit({"job": what, "found": f"something of {what}", "passed": what != "wrong"})
    if what == "raises":
        context.emit({"error": "Traceback\nValueError: on purpose"})
        return 1
    if what == "crashes":
        print("last words", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "hangs":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        context.emit({"child": child.pid})
        file.write('{"unfinished": ')
        file.flush()
        time.sleep(600)
    if what == "leaves":
        context.emit({"child": subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid})
    if what == "measures":
        prepared = time.monotonic()
        time.sleep(0.2)
        with context.measuring():
            start = time.monotonic()
            time.sleep(0.1)
            end = time.monotonic()
        context.emit({"preparing": [prepared, prepared + 0.2], "measuring": [start, end]})
    return 0


def only_says(key: str) -> dict:
    return {key: "a reason"}


if __name__ == "__main__":
    if sys.argv[2] in (NEEDS_CUDA, NOT_POSSIBLE, "says nothing"):
        if sys.argv[2] != "says nothing":
            Path(sys.argv[sys.argv.index("--rows") + 1]).write_text(json.dumps(only_says(sys.argv[2])) + "\n")
        sys.exit(0)
    sys.exit(main())
