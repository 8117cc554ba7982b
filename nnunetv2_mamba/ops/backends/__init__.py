"""The implementations of the scan: one file each, none imported before it is used (see `ops/backend_selection.py`)."""
