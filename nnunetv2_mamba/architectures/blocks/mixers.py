"""The names of the sequence mixers that every network offers."""

from __future__ import annotations

MIXERS = ("mamba", "none", "conv")


def check_mixer(mixer: str) -> str:
    """Return ``mixer`` if it is one of ``MIXERS``.

    Raises:
        ValueError: otherwise.
    """
    if mixer not in MIXERS:
        raise ValueError(f"mixer must be one of {', '.join(MIXERS)}; got {mixer!r}")
    return mixer
