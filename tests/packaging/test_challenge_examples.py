"""The examples of docs/challenges.md: the commands as they stand there, and a case laid out as the challenge does."""

import shlex
import shutil
from pathlib import Path

import layouts
import pytest
from documentation import BLOCKS

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.cli import main
from nnunetv2_mamba.packaging import build_context
from nnunetv2_mamba.packaging.container import main as run_container

HERE = "executed by tests/packaging/test_challenge_examples.py"
COMMANDS = [words for block in BLOCKS if block.comment == HERE for words in block.commands]


def brats_2026(folder: Path, images: list[Path]) -> str:
    layouts.brats(folder, ["t1c", "t1n", "t2f", "t2w"], {"BraTS-GoAT-00001-000": images})
    return "BraTS-GoAT-00001-000.nii.gz"


def meningioma_rt(folder: Path, images: list[Path]) -> str:
    case = folder / "BraTS-MEN-RT-0001-1"
    case.mkdir(parents=True)
    shutil.copy(images[0], case / f"{case.name}_t1c.nii.gz")
    return f"{case.name}.nii.gz"


def toothfairy3(folder: Path, images: list[Path]) -> str:
    layouts.grand_challenge(folder, ["cbct"], images[:1])
    return "images/oral-pharyngeal-segmentation/output.mha"


def aortaseg24(folder: Path, images: list[Path]) -> str:
    layouts.grand_challenge(folder, ["ct-angiography"], images[:1])
    return "images/aortic-branches/output.mha"


LAYOUTS = {
    "brats2026": brats_2026,
    "meningioma-rt": meningioma_rt,
    "toothfairy3": toothfairy3,
    "aortaseg24": aortaseg24,
}


@pytest.fixture
def package(trained_model, one_channel, built_wheel, monkeypatch, tmp_path):
    """Runs the command for a model of as many channels as it names; in the folder of the test."""
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)
    monkeypatch.setattr(build_context, "try_model", lambda *arguments: None)
    monkeypatch.setattr(build_context, "write_wheel", lambda folder: Path(shutil.copy(built_wheel, folder)))
    monkeypatch.chdir(tmp_path)

    def run(words: list[str]) -> None:
        model = trained_model.folder if "t2w" in words else one_channel
        arguments = [str(model) if word == "MODEL_FOLDER" else word for word in words[2:]]
        assert main(["package", *arguments]) == 0

    return run


@pytest.mark.parametrize("words", [pytest.param(words, id=words[words.index("-o") + 1]) for words in COMMANDS])
def test_an_example_answers_its_challenge(package, trained_model, tmp_path, words):
    package(words)
    context = tmp_path / words[words.index("-o") + 1]
    model = context / "model"
    if not model.is_dir():  # the platform unpacks it
        shutil.unpack_archive(context / "model.tar.gz", model, "gztar")
    images = trained_model.cases["case_0"]
    result = LAYOUTS[context.name](tmp_path / "input", images)
    folders = ["--input", tmp_path / "input", "--output", tmp_path / "output", "--weights", model]
    assert run_container([str(context / "inference.json"), *map(str, folders)]) == 0
    (file,) = [path for path in (tmp_path / "output").rglob("*") if path.is_file()]
    assert file.relative_to(tmp_path / "output").as_posix() == result
    source = next(path for path in (tmp_path / "input").rglob("*") if path.name.endswith((".nii.gz", ".mha")))
    assert layouts.geometry(file) == layouts.geometry(source)


def test_there_is_a_layout_for_every_example():
    assert [shlex.join(words) for words in COMMANDS if words[words.index("-o") + 1] not in LAYOUTS] == []
    assert len(COMMANDS) == len(LAYOUTS)
