"""Check and time the kernels and the networks on one GPU, in six minutes, most important first.

    python gpu_suite.py --out DIR

In a checkout it needs nnunetv2 as well; the archive of `pack_gpu_suite.py` brings what torch, triton and numpy lack.
DIR/gpu_suite.json and DIR/gpu_suite.md are written anew after every section. A section that fails, hangs or crashes is
reported, and the next one runs. Exit code: 0 if all passed, 1 if a section did not, 2 if a compiler, a header, the GPU
or the backend was missing, which the first sections tell. `--device cpu` is a dry run of everything on tiny sizes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from gpu_sections import places

places.make_importable()

from gpu_sections.runner import Suite  # noqa: E402
from gpu_sections.sections import all_sections  # noqa: E402
from gpu_sections.tables import summary  # noqa: E402

from nnunetv2_mamba.files import read_json_object  # noqa: E402
from nnunetv2_mamba.processes import signals_raise  # noqa: E402

ALWAYS = "environment"  # what makes sure that the rest is worth its time


def main(arguments: list[str] | None = None) -> int:
    names = [section.name for section in all_sections(1)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--out", type=Path, metavar="DIR", help="folder for the results")
    wanted.add_argument("--summary", type=Path, metavar="FILE", help="print the tables of results written before")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run on tiny sizes")
    parser.add_argument("--minutes", type=float, default=6, help="for everything (default: %(default)g)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="SECTION", help=f"of {', '.join(names)}")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="that compile kernels (default: one per core)"
    )
    given = parser.parse_args(arguments)
    if given.processes < 1 or not given.minutes > 0:
        parser.error("--processes and --minutes must be above 0")
    try:
        if given.summary:
            report = read_json_object(given.summary)
            if "sections" not in report:
                raise ValueError(f"{given.summary} has no results of this suite; give it a gpu_suite.json")
            print(summary(report))
            return 0
        given.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    chosen = tuple(
        section
        for section in all_sections(given.processes)
        if given.only is None or section.name in given.only or section.name == ALWAYS
    )
    suite = Suite(given.device, given.out, given.minutes * 60)
    with signals_raise():
        code = suite.run(chosen, lambda line: print(line, flush=True))
    print(f"\n{summary(suite.report)}\n{suite.report['seconds']:.0f} s; written to {given.out}")
    return code


if __name__ == "__main__":
    sys.exit(main())
