"""How much of a training step on the CPU the state-space part takes: scans and causal convolutions, there and back.

    python benchmarks/state_space_share.py [--grid D H W ...] [--rounds N] [--json FILE]

fp32, batch 2, one thread, by that thread's CPU time, which other work on the machine disturbs little; the share is the
median over the rounds, of which the first warms up.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from networks import OURS, training_step
from torch.utils._python_dispatch import TorchDispatchMode

BATCH = 2


class Stopwatch(TorchDispatchMode):
    """CPU seconds spent in this package's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function.namespace != "nnunetv2_mamba":
            return function(*arguments, **(keywords or {}))
        start = time.process_time()
        result = function(*arguments, **(keywords or {}))
        name = function.__name__.partition(".")[0]
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
        return result


def measure(name: str, grid: tuple[int, ...], rounds: int) -> dict:
    torch.manual_seed(0)
    network = OURS[name]
    step = training_step(network.build().train(), grid, network.channels, BATCH, None)
    steps = []
    for _ in range(rounds + 1):
        with Stopwatch() as stopwatch:
            start = time.process_time()
            step()
            steps.append({"step": time.process_time() - start, **stopwatch.seconds})
    shares = [(sum(parts.values()) - parts["step"]) / parts["step"] for parts in steps[1:]]
    row = {"network": name, "patch": grid, "share of the state-space part": statistics.median(shares)}
    return row | {f"{part} s": statistics.median(s[part] for s in steps[1:]) for part in steps[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, nargs=3, action="append", help="patch; default 48 64 48 and 64 64 64")
    parser.add_argument("--networks", nargs="+", choices=OURS, default=("SegMamba", "MedSegMamba"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("state_space_share.json"), help="where to write the results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    grids = [tuple(grid) for grid in arguments.grid or ((48, 64, 48), (64, 64, 64))]
    rows = []
    for grid in grids:
        for name in arguments.networks:
            rows.append(measure(name, grid, arguments.rounds))
            print(
                "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{v}" for k, v in rows[-1].items()), flush=True
            )
    arguments.json.write_text(json.dumps({"torch": torch.__version__, "batch": BATCH, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
