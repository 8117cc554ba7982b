"""``test_run.sh`` of every platform with a ``docker`` that writes down how it is called."""

import json
import subprocess
import sys
from pathlib import Path

import layouts
import pytest

from nnunetv2_mamba.packaging import build_context
from nnunetv2_mamba.packaging.build_context import Request, write_context
from nnunetv2_mamba.packaging.platforms import PLATFORMS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the scripts are for Linux")
DOCKER = """#!/usr/bin/env bash
if [ "$1" = --version ]; then echo "$ENGINE version 5"; exit; fi
printf '%s\\t' "$@" >> "$LOG"
for argument; do case "$argument" in
    *:/opt/ml/model:ro)
        ls "${argument%%:*}" | tr '\\n' '\\t' >> "$LOG"
        find "${argument%%:*}" \\( ! -perm -a=r -o -type d ! -perm -a=x \\) -printf 'hidden %P\\t' >> "$LOG" ;;
esac; done
echo >> "$LOG"
"""


def no_wheel(folder: Path) -> Path:
    file = folder / "nnunetv2_mamba-0.1-py3-none-any.whl"
    file.touch()
    return file


@pytest.fixture
def docker(trained_model, tmp_path, monkeypatch):
    """Package, run the script and return what Docker is told, call by call."""
    monkeypatch.setattr(build_context, "try_model", lambda *arguments: None)
    monkeypatch.setattr(build_context, "write_wheel", no_wheel)
    monkeypatch.setattr(build_context, "pinned_requirements", lambda wheel: ["nnunetv2==2.8.1", "torch==2.4.0"])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    (tmp_path / "all inputs").mkdir()

    def run(platform: str, *arguments: str, engine: str = "docker", **options) -> list[list[str]]:
        folder = tmp_path / "my context"
        write_context(Request(trained_model.folder, platform, image="team/name:1", **options), folder)
        done = subprocess.run(
            [folder / "test_run.sh", tmp_path / "all inputs", tmp_path / "new" / "output", *arguments],
            env={
                "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
                "LOG": str(tmp_path / "log"),
                "ENGINE": engine,
                "TAR_OPTIONS": "--no-same-permissions",  # as for any user but root
            },
            umask=0o077,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        calls = [line.rstrip("\t").split("\t") for line in (tmp_path / "log").read_text().splitlines()]
        build = ["build", "--platform=linux/amd64", "--tag", "team/name:1", str(folder)]
        assert calls.pop(0) == build
        return calls

    return run


def users(folder: Path) -> list[str]:
    lines = (folder / "my context" / "Dockerfile").read_text().splitlines()
    return [line for line in lines if line.startswith("USER ")]


def volume(path: Path, target: str) -> list[str]:
    return ["--volume", f"{path}:{target}"]


def test_flare(docker, tmp_path):
    assert docker("flare") == [
        ["run", "--rm", "--platform=linux/amd64", "--network", "none", "--gpus", "device=0", "--memory=28g"]
        + ["--shm-size=2g"]
        + volume(tmp_path / "all inputs", "/workspace/inputs/:ro")
        + volume(tmp_path / "new/output", "/workspace/outputs/")
        + ["team/name:1", "/bin/bash", "-c", "sh predict.sh"]
    ]
    assert users(tmp_path) == [] and PLATFORMS["flare"].user == "root"  # whom alone FLARE's script lets write


@pytest.mark.parametrize("hidden", ["scan.nii.gz", "case"])
def test_data_that_the_containers_user_cannot_read_stay_as_they_are(docker, tmp_path, hidden):
    """Nobody is given the right to read a patient's images by a test of a container."""
    (tmp_path / "all inputs" / "case").mkdir()
    (tmp_path / "all inputs" / "scan.nii.gz").touch()
    path = tmp_path / "all inputs" / hidden
    path.chmod(0o700)
    with pytest.raises(AssertionError, match=f"all inputs/{hidden} cannot be read by the container's user: chmod"):
        docker("grand-challenge", options=layouts.OPTIONS["grand-challenge"])
    assert path.stat().st_mode & 0o777 == 0o700 and not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("year", "mounts", "arguments"),
    [
        ([], ("/input:ro", "/output"), []),
        (["2025"], ("/input:ro", "/output"), []),
        (
            ["2024"],
            ("/mlcube_io0:ro", "/mlcube_io2"),
            ["infer", "--data_path=/mlcube_io0", "--output_path=/mlcube_io2"],
        ),
    ],
)
def test_brats(docker, tmp_path, year, mounts, arguments):
    (call,) = docker("brats", *year, options=layouts.OPTIONS["brats"], gpu=False)
    user = call.pop(call.index("--user") + 1)
    assert user == ":".join(
        subprocess.run(["id", flag], capture_output=True, text=True).stdout.strip() for flag in ("-u", "-g")
    )
    assert call == (
        ["run", "--rm", "--platform=linux/amd64", "--network", "none", "--memory=30g", "--shm-size=4g", "--user"]
        + volume(tmp_path / "all inputs", mounts[0])
        + volume(tmp_path / "new/output", mounts[1])
        + ["team/name:1", *arguments]
    )
    assert users(tmp_path) == ["USER 10001:10001"]
    dockerfile = (tmp_path / "my context" / "Dockerfile").read_text()
    assert " PYTHONNOUSERSITE=1 " in dockerfile  # BraTS's runner takes Singularity too, where ~/.local is the host's


@pytest.mark.parametrize(
    ("engine", "uid", "asked"), [("podman", 1000, ["--userns=keep-id"]), ("podman", 0, []), ("docker", 1000, [])]
)
def test_the_caller_of_podman_without_root_is_the_same_user_in_the_container(docker, tmp_path, engine, uid, asked):
    (tmp_path / "bin" / "id").write_text(f"#!/bin/sh\necho {uid}\n")
    (tmp_path / "bin" / "id").chmod(0o755)
    (call,) = docker("brats", engine=engine, options=layouts.OPTIONS["brats"], gpu=False)
    start = call.index("--user")
    assert call[start + 1 : call.index("--volume")] == [f"{uid}:{uid}", *asked]


SERVER = ["python", "-m", "nnunetv2_mamba.packaging.container", "/opt/app/inference.json", "serve"]


@pytest.mark.parametrize(
    ("options", "entry", "arguments"),
    [
        ({}, ["--entrypoint", "python"], ["-m", "nnunetv2_mamba.packaging.invoke_trial", *SERVER]),
        ({"api": "exec"}, [], []),
    ],
    ids=["invoke", "exec"],
)
def test_grand_challenge(docker, tmp_path, options, entry, arguments):
    interfaces = ["o=output", *(f"mri-{channel}={channel}" for channel in range(4))]
    (call,) = docker("grand-challenge", options={"interface": interfaces, **options})
    *call, dataset, fold_0, fold_1, plans = call  # what is in the folder of the model
    assert (dataset, fold_0, fold_1, plans) == ("dataset.json", "fold_0", "fold_1", "plans.json")
    model = Path(next(word for word in call if word.endswith(":/opt/ml/model:ro")).split(":")[0])
    assert call == (
        ["run", "--rm", "--platform=linux/amd64", "--network", "none", "--gpus", "all", "--memory=30g"]
        + ["--shm-size=2g", "--pids-limit=256", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        + volume(tmp_path / "all inputs", "/input:ro")
        + volume(tmp_path / "new/output", "/output")
        + ["--volume", "/tmp"]
        + volume(model, "/opt/ml/model:ro")
        + [*entry, "team/name:1", *arguments]
    )
    assert not model.exists()
    assert (tmp_path / "new/output").stat().st_mode & 0o007 == 0o007
    assert users(tmp_path) == ["USER 10001:10001"]
    dockerfile = (tmp_path / "my context" / "Dockerfile").read_text().splitlines()
    (label,) = [line for line in dockerfile if line.startswith("LABEL ")] or [""]
    assert label == ("" if options else 'LABEL org.grand-challenge.api-method="invoke"')
    assert json.loads(dockerfile[-1].removeprefix("ENTRYPOINT ")) == (SERVER[:-1] if options else SERVER)
