"""``package --check`` with a ``docker`` that copies the image in place of a container; for real ones see
``test_built_containers.py``."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.cli import main
from nnunetv2_mamba.packaging import build_context
from nnunetv2_mamba.packaging.inference_settings import InferenceSettings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="test_run.sh is for Linux")
DOCKER = """#!/usr/bin/env bash
echo "$@" >> "{log}"
case $1 in
    info) exit {info} ;;
    --version) echo "{name} version 1.2" ;;
    run)
        for argument; do case "$argument" in
            *:/workspace/inputs/:ro) input=${{argument%%:*}} ;;
            *:/workspace/outputs/) output=${{argument%%:*}} ;;
        esac; done
        echo "on the CPU, directional_scan by cpu"
        echo "case: /workspace/outputs/case.nii.gz, 1 fold, 20 x 24 x 16 voxels, 2.5 s, 812 MiB"
        {run} ;;
esac
"""
SEGMENT = 'cp "$input/case_0000.nii.gz" "$output/case.nii.gz"'


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """Puts programs on PATH, and returns what they are told."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    log = tmp_path / "log"

    def put(name="docker", info=0, run=SEGMENT):
        program = tmp_path / "bin" / name
        program.write_text(DOCKER.format(log=log, name=name, info=info, run=run))
        program.chmod(0o755)
        return log

    put("docker", info=1)  # of this machine, if any
    put("podman", info=1)
    return put


@pytest.fixture
def package(trained_model, built_wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)
    monkeypatch.setattr(build_context, "try_model", lambda *arguments: None)
    monkeypatch.setattr(build_context, "write_wheel", lambda folder: Path(shutil.copy(built_wheel, folder)))

    def run(*arguments):
        words = ["package", str(trained_model.folder), "--for", "flare", "-o", str(tmp_path / "context"), "--cpu"]
        return main([*words, "--check", *map(str, arguments)])

    return run


def test_what_a_run_took_is_in_the_card_and_the_card_in_the_image(engine, package, tmp_path, capsys):
    log = engine()
    assert package() == 0
    card = json.loads((tmp_path / "context/model_card.json").read_text())
    assert card["measured"] == {
        "engine": "docker version 1.2",
        "device": "the CPU, directional_scan by cpu",
        "input": "a case of noise, as large as the training data's median",
        "cases": [
            {"name": "case", "size": [20, 24, 16], "seconds": 2.5, "memory_mib": 812, "gpu_memory_mib": None},
        ],
    }
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["info", "build", "run", "--version", "build"]
    build = f"build --platform=linux/amd64 --tag nnunetv2-mamba {tmp_path / 'context'}"
    assert log.read_text().splitlines()[-1] == build
    assert "Checked by docker version 1.2: 1 case(s), see MODEL_CARD.md" in capsys.readouterr().out


def test_the_checkpoint_that_was_asked_for(package, trained_model, tmp_path):
    best = trained_model.folder / "fold_0" / "checkpoint_best.pth"
    shutil.copy(trained_model.folder / "fold_0" / "checkpoint_final.pth", best)
    try:
        assert (
            main(
                ["package", str(trained_model.folder), "--for", "flare", "-o", str(tmp_path / "context"), "--cpu"]
                + ["--checkpoint", "checkpoint_best.pth"]
            )
            == 0
        )
    finally:
        best.unlink()
    checkpoints = [file.relative_to(tmp_path / "context").as_posix() for file in (tmp_path / "context").rglob("*.pth")]
    assert checkpoints == ["model/fold_0/checkpoint_best.pth"]
    assert InferenceSettings.read(tmp_path / "context/inference.json").choices.checkpoint == "checkpoint_best.pth"


def test_in_the_folder_where_one_is(engine, package, tmp_path, monkeypatch):
    engine()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert package("-o", ".") == 0
    assert json.loads(Path("model_card.json").read_text())["measured"]["cases"]


def test_the_containers_user_can_read_the_noise_and_the_image(engine, package, tmp_path):
    engine(run='[ -z "$(find "$input" ! -perm -o=r)" ] && ' + SEGMENT)
    before = os.umask(0o077)
    try:
        assert package() == 0
    finally:
        os.umask(before)
    assert not [path for path in (tmp_path / "context").rglob("*") if not path.stat().st_mode & 0o004]


def test_a_folder_as_the_platform_gives_it(engine, package, trained_model, tmp_path):
    engine("podman", run=SEGMENT.replace("case", "own"))
    (tmp_path / "mine").mkdir()
    for channel, image in enumerate(trained_model.cases["case_0"]):
        shutil.copy(image, tmp_path / "mine" / f"own_{channel:04d}.nii.gz")
    assert package(tmp_path / "mine") == 0
    measured = json.loads((tmp_path / "context/model_card.json").read_text())["measured"]
    assert (measured["engine"], measured["input"]) == ("podman version 1.2", "mine")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("echo 'FAILED: why'; exit 3", "test_run.sh failed with exit code 3: FAILED: why"),
        ("true", "the container wrote no case.nii.gz"),
        ('echo x > "$output/case.nii.gz"', "case.nii.gz cannot be read"),
    ],
    ids=["exit code", "no result", "no image"],
)
def test_a_container_that_fails_its_test(engine, package, tmp_path, capsys, run, message):
    engine(run=run)
    assert package() == 1
    assert message in capsys.readouterr().err
    assert json.loads((tmp_path / "context/model_card.json").read_text())["measured"] is None


def test_what_is_no_folder_is_said_before_anything_is_written(engine, package, tmp_path, capsys):
    engine()
    assert package(tmp_path / "nowhere") == 1
    assert f"--check {tmp_path / 'nowhere'} is no folder" in capsys.readouterr().err
    assert not (tmp_path / "context").exists()


def test_without_an_engine_nothing_is_written(engine, package, tmp_path, capsys):
    assert package() == 1
    assert "--check needs docker or podman, and neither runs here: install one" in capsys.readouterr().err
    assert not (tmp_path / "context").exists()
