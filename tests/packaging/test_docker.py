"""The containers with Docker itself, where there is one: ``test_run.sh``, and what platforms forbid beyond it."""

import os
import subprocess
import sys
from pathlib import Path

import layouts
import pytest
from trained_model import MODALITIES

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.packaging.context import Request, write_context


def docker_runs() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or not ("CI" in os.environ or docker_runs()), reason="no Docker here"),
]
SLUGS = [f"mri-{channel}" for channel in range(len(MODALITIES))]
OPTIONS = {
    "grand-challenge": {"interfaces": ["organs=output", *(f"{slug}={number}" for number, slug in enumerate(SLUGS))]},
    "brats": {"modalities": MODALITIES},
    "flare": {},
}
FOLDERS = {
    "grand-challenge": ("/input", "/output"),
    "brats": ("/input", "/output"),
    "flare": ("/workspace/inputs", "/workspace/outputs"),
}


@pytest.mark.parametrize("platform", OPTIONS)
def test_docker_builds_and_runs_it(trained_model, tmp_path, monkeypatch, platform):
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)
    context, image = tmp_path / "context", f"nnunetv2-mamba-test-{platform}"
    write_context(Request(trained_model.folder, platform, gpu=False, image=image, **OPTIONS[platform]), context)
    cases, inputs = trained_model.cases, tmp_path / "inputs"
    results = {f"{name}.nii.gz": reference for name, reference in trained_model.references.items()}
    if platform == "grand-challenge":
        layouts.grand_challenge(inputs, SLUGS, cases["case_0"])
        results = {"images/organs/output.mha": trained_model.references["case_0"]}
    elif platform == "brats":
        layouts.brats(inputs, MODALITIES, cases)
    else:
        layouts.flare(inputs, cases)
    run([context / "test_run.sh", inputs, tmp_path / "outputs"])
    check(tmp_path / "outputs", results)

    # as somebody whom the image does not know, with nothing to write to but the output and /tmp
    strict = tmp_path / "strict"
    strict.mkdir()
    strict.chmod(0o777)
    command = ["docker", "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--user", "4711:4711"]
    for folder, target in zip((f"{inputs}", f"{strict}"), FOLDERS[platform], strict=True):
        command += ["--volume", f"{folder}:{target}"]
    if platform == "grand-challenge":
        (tmp_path / "model").mkdir()
        run(["tar", "-xzf", context / "model.tar.gz", "-C", tmp_path / "model"])
        command += ["--volume", f"{tmp_path / 'model'}:/opt/ml/model:ro"]
    run([*command, image])
    check(strict, results)


def run(command: list) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def check(folder: Path, results: dict[str, Path]) -> None:
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file()}
    assert written == set(results)
    for name, reference in results.items():
        layouts.assert_same_labels(folder / name, reference)
