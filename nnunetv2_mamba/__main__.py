"""``python -m nnunetv2_mamba``: the command where its script is not installed (PYTHONPATH) or not on PATH."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
