"""Stands for a training where only the cluster matters: ``fake_training.py SWEEP/jobs/NAME.json``.

An epoch takes a tenth of a second per iteration. As a training it takes the run's lock, measures its epochs, writes a
checkpoint on SIGTERM and SIGUSR2, continues from it, and leaves the files of a finished run.
"""

import json
import signal
import sys
import time
from pathlib import Path

from sweep_cases import pretend_finished

from nnunetv2_mamba.benchmark.job import BUSY
from nnunetv2_mamba.benchmark.lock import lock
from nnunetv2_mamba.benchmark.training import MEASUREMENTS, Training
from nnunetv2_mamba.files import write_json, write_text


def train(training: Training, folder: Path) -> int:
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda number, _: received.append(number))
    checkpoint, measured = folder / "checkpoint_latest.pth", folder / MEASUREMENTS
    first = int(checkpoint.read_text()) if checkpoint.is_file() else 0
    epochs = json.loads(measured.read_text())["epochs"] if measured.is_file() else {}
    print(f"begins with epoch {first}", flush=True)
    for epoch in range(first, training.budget.epochs):
        for _ in range(training.budget.iterations):
            time.sleep(0.1)
            if received:
                write_text(checkpoint, str(epoch))
                print(f"{signal.Signals(received[0]).name}: wrote checkpoint_latest.pth in epoch {epoch}", flush=True)
                return 128 + received[0]
        epochs[str(epoch)] = {"seconds": 0.1 * training.budget.iterations}
        write_json(measured, {"epochs": epochs})
    pretend_finished(training, folder.parents[4])
    print("finished", flush=True)
    return 0


def main() -> int:
    file = Path(sys.argv[1])
    training, sweep = Training.read(file), file.resolve().parents[1]
    with lock(training.lock(sweep)) as held:
        if not held:
            print("another process is at it", flush=True)
            return BUSY
        if training.finished(sweep):
            return 0
        folder = training.folder(sweep)
        folder.mkdir(parents=True, exist_ok=True)
        return train(training, folder)


if __name__ == "__main__":
    sys.exit(main())
