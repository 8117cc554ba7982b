"""``nnunetv2_mamba benchmark`` with ``fake_training.py`` for trainings, without data sets, torch and long pauses."""

import sys
from pathlib import Path
from types import SimpleNamespace

# What looks at data sets and networks
sys.modules["nnunetv2_mamba.benchmark.checks"] = SimpleNamespace(
    resolve=lambda sweep: sweep, check_same_plans=lambda training, folder: None
)
sys.modules["nnunetv2_mamba.benchmark.duration"] = SimpleNamespace()

from nnunetv2_mamba import cli  # noqa: E402
from nnunetv2_mamba.benchmark import cluster_launcher, command, scheduler, slurm_queue  # noqa: E402

command._conclude = lambda *_: True
cluster_launcher.command_of = lambda training, folder, _: [
    sys.executable,
    str(Path(__file__).with_name("fake_training.py")),
    str(training.file(folder)),
]
slurm_queue.LOOK_EVERY, slurm_queue._LOOK_AGAIN = 1.0, 0.5
scheduler._PAUSES, scheduler._BUSY_PAUSE = (1.0, 4.0), 2.0

if __name__ == "__main__":
    sys.exit(cli.main(["benchmark", *sys.argv[1:]]))
