"""The figures that the project promises for a GPU, and what of them a run has reached.

**Forward and backward pass of the scan.** Two passes over a path, without which runs cannot be walked side by side,
are two exponentials per token, channel, state and direction, so the floor has two, not one: 1.3 ms at SegMamba's first
stage on an H100. By its instructions the forward pass takes 1.9 ms if every cycle issues one, and 2.4 ms at the usual
four of five cycles: 1.85 times the floor; the aim is 2.0. The backward pass has three exponentials in its floor, 1.95
ms there; its adjoint kernel issues 625 instructions per token of a tile for 37 of the special-function unit and holds
all registers, so that few warps hide each other's waiting: 4.4 ms if every cycle issues, 7.4 ms at the 55 % expected
of it, 3.8 times the floor; the aim is 4.0.

**Memory of the scan against mamba_ssm's** has no aim: the gradients of all directions, made in one launch, are more
than 0.6 of what mamba_ssm needs for one direction after the other. The layer around it keeps 0.21 of what the layer on
mamba_ssm keeps (``scan_memory.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from published import MEDSEGMAMBA_INFERENCE_MIB, SEGMAMBA_TRAINING_MIB

Row = dict[str, Any]
STAGE_1 = {"operator": "scan, triton", "size": "SegMamba stage 1"}


def against_targets(rows: dict[str, list[Row]]) -> list[Row]:
    """Return each figure, its aim, and whether it was reached; None for what was not measured.

    Args:
        rows: of the sections, by their names.
    """
    speed, training = rows.get("speed", []), rows.get("training", [])

    def of_training(network: str, what: str, key: str) -> float | None:
        return find(training, {"network": network, "what": what}, key)

    def share(network: str) -> float | None:
        whole, without = (of_training(name, "training", "ms") for name in (network, f"{network}, no Mamba"))
        return None if whole is None or without is None else 1 - without / whole

    segmamba = ratio(of_training("SegMamba", "training", "peak MiB"), SEGMAMBA_TRAINING_MIB)
    medsegmamba = ratio(of_training("MedSegMamba", "prediction", "peak MiB"), MEDSEGMAMBA_INFERENCE_MIB)
    at_most = (
        ("stage 1, forward over the floor of two exponentials", find(speed, STAGE_1, "forward / floor"), 2.0),
        ("stage 1, backward over the floor of three exponentials", find(speed, STAGE_1, "backward / floor"), 4.0),
        ("SegMamba's training step, memory over the paper's", segmamba, 0.6),
        ("SegMamba's training step, share of the state-space part", share("SegMamba"), 0.35),
        ("MedSegMamba's training step, share of the state-space part", share("MedSegMamba"), 0.35),
        ("MedSegMamba's prediction, memory over the paper's", medsegmamba, 0.75),
    )
    speed_up = find(rows.get("rival", []), {"size": "SegMamba stage 1"}, "speed-up")
    return [
        {"figure": "stage 1, speed-up over mamba_ssm", "measured": speed_up, "aim": "at least 2.5"}
        | {"reached": None if speed_up is None else speed_up >= 2.5},
        *(
            {"figure": name, "measured": value, "aim": f"at most {aim:g}"}
            | {"reached": None if value is None else value <= aim}
            for name, value, aim in at_most
        ),
    ]


def find(rows: Iterable[Row], wanted: Row, key: str) -> float | None:
    """The value in the first row that has all of ``wanted``."""
    return next((row.get(key) for row in rows if wanted.items() <= row.items()), None)


def ratio(value: float | None, reference: float) -> float | None:
    """``value`` over ``reference``, where there is one."""
    return None if value is None else value / reference
