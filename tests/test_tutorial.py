"""The tutorial's blocks, run one after the other as a reader would, with shorter trainings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from documentation import BLOCKS
from shared_files import SHARED, why_absent

import nnunetv2_mamba

TUTORIAL = [block for block in BLOCKS if block.page == "docs/tutorial.md" and block.comment.startswith("executed by")]
REAL = SHARED / "data" / "Dataset004_Hippocampus"
SHORT = "num_epochs=1, num_iterations_per_epoch=1, num_val_iterations_per_epoch=1"


def as_downloaded(folder: Path) -> None:
    """Lay out ``Task04_Hippocampus``: real cases where they are, else blocks of two labels in noise."""
    images, labels = folder / "Task04_Hippocampus" / "imagesTr", folder / "Task04_Hippocampus" / "labelsTr"
    images.mkdir(parents=True)
    labels.mkdir()
    if why_absent("data", "Dataset004_Hippocampus") is None:
        for file in sorted((REAL / "labelsTr").glob("*.nii.gz"))[:20]:
            shutil.copy(file, labels)
            shutil.copy(REAL / "imagesTr" / file.name.replace(".nii.gz", "_0000.nii.gz"), images / file.name)
        return
    rng = np.random.default_rng(0)
    for case in range(20):
        truth = np.zeros((36, 50, 34), dtype=np.uint8)
        truth[8:26, 10:25, 9:24] = 1
        truth[10:28, 25:40, 8:22] = 2
        for voxels, path in ((truth + rng.normal(0, 0.3, truth.shape), images), (truth, labels)):
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(path / f"hippocampus_{case:03d}.nii.gz"))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bash"), reason="the tutorial's commands are for bash")
def test_from_files_to_a_report(tmp_path):
    as_downloaded(tmp_path)
    steps, python = [], ""
    for number, block in enumerate(TUTORIAL):
        script = block.body
        if block.language == "python":
            python += script  # goes on from the blocks before it
            (tmp_path / f"block_{number}.py").write_text(python, encoding="utf-8")
            script = f"{sys.executable} block_{number}.py"
        script = re.sub(r"^(export NNUNETV2_MAMBA_SETTINGS=).*", rf'\1"{SHORT}"', script, flags=re.MULTILINE)
        steps.append(re.sub(r"(nnUNetv2_train .*|-f 0 -tr \S+)", r"\1 -device cpu", script))
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(Path(nnunetv2_mamba.__file__).parents[1]),
        "nnUNet_def_n_proc": "1",
        "nnUNet_n_proc_DA": "1",
    }
    command = ["bash", "-e", "-c", "\n".join(steps)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert done.stdout.count(" ml, posterior ") == 16
    report = (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")
    assert "UMambaBotNoMamba" in report and "Dice" in report
