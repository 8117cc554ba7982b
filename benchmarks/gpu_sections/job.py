"""One job of a section, in a process of its own: ``python -m gpu_sections.job SECTION JOB --device cuda --rows FILE``.

Rows go to the file as they come, a JSON object per line. What the job raises is the last of them, and exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from . import places
from .context import Context, GpuLock

ERROR = "error"  # the key of the row with a traceback


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section")
    parser.add_argument("job")
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--lock", type=Path, required=True)
    given = parser.parse_args(arguments)
    places.make_importable()
    with given.rows.open("a", encoding="utf-8") as file:

        def emit(row: dict[str, Any]) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        context = Context(given.device, emit, GpuLock(given.lock))
        try:
            import_module(f"{__package__}.{given.section}").run(context, given.job)
        except Exception:  # whatever a driver, a compiler or a kernel can raise belongs into the results
            emit({ERROR: traceback.format_exc()})
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
