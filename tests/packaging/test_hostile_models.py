"""Models from anybody: nothing of theirs runs, none takes more memory than it has bytes, each refusal is one line."""

import io
import json
import os
import pickle
import shutil
import zipfile
from codecs import encode
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from torch._utils import _rebuild_device_tensor_from_cpu_tensor

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.cli import main
from nnunetv2_mamba.packaging import model_content, model_source
from nnunetv2_mamba.packaging.case_predictor import CasePredictor
from nnunetv2_mamba.packaging.container import main as run_container
from nnunetv2_mamba.packaging.inference_copy import copy_for_inference
from nnunetv2_mamba.packaging.inference_settings import Choices, InferenceSettings
from nnunetv2_mamba.packaging.model_source import open_model
from nnunetv2_mamba.untrusted.checkpoints import read_plain


@pytest.fixture(autouse=True)
def our_trainers(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)


@pytest.fixture
def model(trained_model, tmp_path):
    """A copy to be spoilt, of one fold."""
    folder = shutil.copytree(trained_model.folder, tmp_path / "model")
    shutil.rmtree(folder / "fold_1")
    return folder


def rewrite(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def zipped(folder, file, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(file, "w", compression) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, f"D/{folder.name}/{path.relative_to(folder).as_posix()}")
    return file


def one_line(capsys):
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "FAILED" in line or "nnunetv2_mamba" in line]
    return line


def in_container(model, tmp_path):
    (tmp_path / "inputs").mkdir(exist_ok=True)
    (tmp_path / "inputs/a_0000.nii.gz").touch()
    InferenceSettings("flare", model=str(model), choices=Choices(("0",))).write(tmp_path / "inference.json")
    arguments = ["--input", tmp_path / "inputs", "--output", tmp_path / "outputs"]
    return run_container([str(argument) for argument in (tmp_path / "inference.json", *arguments)])


VERBS = {
    "package": lambda model, folder: main(["package", str(model), "--for", "flare", "-o", str(folder / "context")]),
    "package a ZIP": lambda model, folder: main(
        ["package", str(zipped(model, folder / "m.zip")), "--for", "flare", "-o", str(folder / "context")]
    ),
    "export": lambda model, folder: main(["export", str(model), "--torch-export", str(folder / "network.pt2")]),
    "container": in_container,
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("inherited", [False, True])
def test_no_code_runs_from_plans(model, tmp_path, capsys, verb, inherited):
    """nnU-Net calls what the plans name as the network: here, one that loads a file of the model."""
    hub = model / "hub"
    hub.mkdir()
    (hub / "hubconf.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n\n\ndef m(**options):\n    pass\n")
    plans = json.loads((model / "plans.json").read_text())
    configurations = plans["configurations"]
    architecture = {
        "network_class_name": "torch.hub.load",
        "arch_kwargs": {"repo_or_dir": str(hub), "model": "m", "source": "local", "trust_repo": True},
        "_kw_requires_import": [],
    }
    if inherited:
        configurations["parent"] = {**configurations.pop("3d_fullres"), "architecture": architecture}
        configurations["3d_fullres"] = {"inherits_from": "parent"}
    else:
        configurations["3d_fullres"]["architecture"] = architecture
    rewrite(model / "plans.json", **plans)
    file = model / "fold_0/checkpoint_final.pth"
    torch.save({**torch.load(file, weights_only=False), "trainer_name": "nnUNetTrainer", "network_weights": {}}, file)
    before = {path.name for path in tmp_path.iterdir()} | {"m.zip", "inputs", "outputs", "inference.json"}
    assert VERBS[verb](model, tmp_path) == 1
    assert "'network_class_name' is 'torch.hub.load'" in one_line(capsys)
    assert {path.name for path in tmp_path.iterdir()} <= before


class Danger:
    def __reduce__(self):
        return (os.system, ("touch ran",))


@pytest.mark.parametrize("verb", [*VERBS, "import-weights"])
def test_no_message_advises_to_run_pickled_code(model, tmp_path, capsys, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    file = model / "fold_0/checkpoint_final.pth"
    torch.save({**torch.load(file, weights_only=False), "extra": Danger()}, file)
    importing = ["import-weights", str(file), "-o", str(tmp_path / "out.pth")]
    assert (main(importing) if verb == "import-weights" else VERBS[verb](model, tmp_path)) == 1
    line = one_line(capsys)
    assert "checkpoint_final.pth" in line
    assert "weights_only" not in line and "safe_globals" not in line and len(line) < 500
    assert not (tmp_path / "ran").exists()


def of_pytorch(content, zipped=True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def compressed(file: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as source, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return stream.getvalue()


def more_records_than_bytes(file: bytes) -> bytes:
    """The list of members names the same bytes several times."""
    stream = io.BytesIO(file)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.filelist *= 3
        archive._didModify = True
    return stream.getvalue()


# One byte, repeated: written out with eight each, or as a list, it takes memory that the file does not have.
REPEATED = torch.zeros(1, dtype=torch.int8).expand(1 << 12)
PAIRS, TEXT = [(str(number), number) for number in range(100)], "text" * 100


def built(state):
    """An ordered dict with attributes."""
    made = Call(OrderedDict)
    made.call = (OrderedDict, (), state)
    return made


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (compressed(of_pytorch({"a": torch.zeros(100_000)})), "compressed members"),
        (more_records_than_bytes(of_pytorch({"a": torch.zeros(1000)})), "larger than the file"),
        (of_pytorch({"a": Call(bytearray, 10)}), r"more than weights .*bytearray"),
        (of_pytorch({"a": Call(bytearray, 10)}, zipped=False), r"more than weights .*bytearray"),
        (of_pytorch({"a": Call(bytearray, 10)}, zipped=False) + of_pytorch({}), r"more than weights .*bytearray"),
        (pickle.dumps(Call(bytearray, 10), protocol=2), "more than weights .*bytearray"),
        (
            of_pytorch({"a": Call(_rebuild_device_tensor_from_cpu_tensor, REPEATED, torch.float64, "cpu", False)}),
            "more than weights .*_rebuild_device_tensor_from_cpu_tensor",
        ),
        (of_pytorch({"a": Call(Counter, REPEATED)}), "more than weights .*Counter"),
        (of_pytorch({"a": Call(set, REPEATED)}), "more than weights .*set"),
        (of_pytorch({"a": Call(torch.Size, REPEATED)}), "calls torch.Size with"),
        (of_pytorch({"a": [Call(torch.Size, tuple(range(100)))] * 2}), "calls torch.Size with"),
        (of_pytorch({"a": Call(OrderedDict, PAIRS)}), "calls collections.OrderedDict with"),
        (of_pytorch({"a": Call(encode, TEXT, "utf-32")}), "calls _codecs.encode with"),
        (of_pytorch({"a": built(dict(PAIRS))}), "a state that"),
        (of_pytorch({"a": built([REPEATED])}), "a state that"),
        (of_pytorch({"a": built((REPEATED,))}), "a state that"),
        (of_pytorch({"a": Call(np.float64(0).__reduce__()[0], np.dtype("V1000000000"))}), "numpy data of"),
        (of_pytorch({"a": torch.zeros(1).expand(10**6, 10**6)}), r"shape \(1000000, 1000000\) on 4 bytes"),
        (of_pytorch({"a": [{"b": (torch.zeros(1).expand(10**6, 10**6),)}]}), r"shape \(1000000, 1000000\) on 4 bytes"),
        (of_pytorch({"a": torch.zeros(10**6, 10**6, device="meta")}), "more than weights .*meta"),
        (of_pytorch({"a": torch.sparse_coo_tensor([[0], [0]], [1.0], (10**6, 10**6))}), "more than weights .*layout"),
        (of_pytorch({"a": torch.zeros(1000)})[:-300], "damaged or no checkpoint"),
        (b"", "damaged or no checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "damaged|more than weights"),
    ],
    ids=range(24),
)
def test_checkpoints_take_no_more_memory_than_they_have_bytes(tmp_path, content, message):
    file = tmp_path / "checkpoint.pth"
    file.write_bytes(content)
    for source, name in ((file, None), (io.BytesIO(content), file)):
        with pytest.raises((ValueError, pickle.UnpicklingError), match=f"checkpoint.pth .*{message}"):
            read_plain(source, name)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_checkpoints_hold_is_read(zipped):
    """Of both formats: weights and their metadata, an optimizer, numbers of NumPy, names, sizes and devices."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(2, 1, 4, 4)).sum().backward()
    optimizer.step()
    content = {
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "parameter": network[0].weight,
        "logging": {"dice": [np.float32(0.5), [np.float64(0.1), np.int64(3)]], "epochs": list(range(3000))},
        "init_args": {"device": torch.device("cpu"), "plans": {f"option {n}": ["x" * 1000] for n in range(2000)}},
        "shape": torch.zeros(2, 3).shape,
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    found = read_plain(io.BytesIO(of_pytorch(content, zipped)))
    torch.testing.assert_close(found.pop("parameter"), content.pop("parameter"))
    assert found["network_weights"]._metadata == content["network_weights"]._metadata
    for key in ("network_weights", "optimizer_state"):
        torch.testing.assert_close(found.pop(key), content.pop(key))
    assert found == content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="it is no file"):
        read_plain(tmp_path / "checkpoint.pth")


def test_members_of_a_zip_are_bounded_before_they_are_unpacked(model, tmp_path, monkeypatch):
    (model / "plans.json").write_bytes(b" " * ((64 << 20) + 1))
    with pytest.raises(ValueError, match=r"plans.json has 67108865 bytes in \d+ of the ZIP"):
        copy_for_inference(
            open_model(zipped(model, tmp_path / "m.zip")), tmp_path / "slim", None, "checkpoint_final.pth"
        )
    with pytest.raises(ValueError, match="plans.json has 67108865 bytes"):
        copy_for_inference(model, tmp_path / "slim", None, "checkpoint_final.pth")


def test_checkpoints_in_a_zip_are_bounded(model, tmp_path, monkeypatch):
    monkeypatch.setattr(model_content, "_CHECKPOINT_BYTES", 1000)
    file = zipped(model, tmp_path / "m.zip")
    with pytest.raises(ValueError, match=r"checkpoint_final.pth has \d+ bytes in \d+ of the ZIP"):
        copy_for_inference(open_model(file), tmp_path / "slim", None, "checkpoint_final.pth")


def test_a_zip_of_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(model_source, "_MOST_MEMBERS", 3)
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for number in range(4):
            archive.writestr(str(number), "")
    with pytest.raises(ValueError, match="has 4 members"):
        open_model(tmp_path / "m.zip")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_is_named(model, tmp_path, compression):
    file = zipped(model, tmp_path / "m.zip", compression)
    with zipfile.ZipFile(file) as archive:
        member = next(member for member in archive.infolist() if member.filename.endswith("plans.json"))
    content = bytearray(file.read_bytes())
    content[member.header_offset + 200] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ValueError, match="plans.json is damaged"):
        copy_for_inference(open_model(file), tmp_path / "slim", None, "checkpoint_final.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": ["T1", "T2", "T3", "T4"]}, "'channel_names' must be a JSON object"),
        ({"channel_names": {"R": 0}}, "'channel_names' must have a number for each channel"),
        ({"channel_names": {"0": "a", "00": "b"}}, "'channel_names' must have a number"),
        ({"channel_names": {}}, "'channel_names' must be"),
        ({"channel_names": None}, "'channel_names' must be"),
        ({"modality": "CT"}, "'modality' must be"),
        ({"labels": ["background", "a"]}, "'labels' must be a JSON object"),
        ({"labels": {"0": "background", "1": "a"}}, "nnU-Net cannot use the 'labels': Background label not declared"),
        ({"labels": {"background": 0, "1": "liver"}}, "cannot use the 'labels': invalid literal"),
        ({"labels": {"background": 0, "a": float("inf")}}, "cannot use the 'labels'"),
        ({"labels": {"background": 0, "a": [1, 2]}}, "cannot use the 'labels'"),
        ({"labels": {"background": 0, "a": None}}, "cannot use the 'labels'"),
        ({"file_ending": "nii.gz"}, "'file_ending' must start with a dot"),
        ({"file_ending": None}, "'file_ending' must start with a dot"),
    ],
)
def test_descriptions_of_data_sets_that_are_none(model, tmp_path, changes, message):
    rewrite(model / "dataset.json", **changes)
    with pytest.raises(ValueError, match=f"dataset.json: .*{message}"):
        copy_for_inference(model, tmp_path / "slim", None, "checkpoint_final.pth")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda plans: plans["configurations"].update({"3d_fullres": None}), "'3d_fullres' is no JSON object"),
        (lambda plans: plans["configurations"]["3d_fullres"].pop("spacing"), "has no spacing"),
        (lambda plans: plans["configurations"]["3d_fullres"].pop("architecture"), "has no architecture"),
        (lambda plans: plans["configurations"]["3d_fullres"].update(normalization_schemes=[]), "has 0 normalization"),
        (lambda plans: plans.pop("transpose_forward"), "'transpose_forward' must be"),
        (lambda plans: plans.update(foreground_intensity_properties_per_channel={}), "is not of 4 channel"),
        (lambda plans: plans.update(dataset_name=".."), "the dataset_name is '..'"),
    ],
)
def test_plans_that_cannot_be_predicted_with(model, tmp_path, spoil, message):
    plans = json.loads((model / "plans.json").read_text())
    spoil(plans)
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match=f"plans.json.*{message}"):
        copy_for_inference(model, tmp_path / "slim", None, "checkpoint_final.pth")


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", "5", '"text"', "{", '{"a": 1,}', "\xff"])
@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
def test_files_that_hold_no_object(model, tmp_path, name, text):
    (model / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=name):
        copy_for_inference(model, tmp_path / "slim", None, "checkpoint_final.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inference_allowed_mirroring_axes": (0, 99)}, "axes of the patch, below 3, got"),
        ({"inference_allowed_mirroring_axes": "os.system"}, "axes of the patch"),
        ({"inference_allowed_mirroring_axes": [[0]]}, "axes of the patch"),
        ({"inference_allowed_mirroring_axes": [0, 0]}, "different axes of the patch"),
        ({"inference_allowed_mirroring_axes": [1.0]}, "different axes of the patch"),
        ({"inference_allowed_mirroring_axes": [True]}, "different axes of the patch"),
        ({"inference_allowed_mirroring_axes": [-1]}, "different axes of the patch"),
        ({"network_weights": {1: torch.zeros(1)}}, "network_weights are not tensors"),
        ({"network_weights": [torch.zeros(1)]}, "network_weights are not tensors"),
        ({"init_args": None}, "has no configuration"),
        ({"trainer_name": "join"}, "the trainer join .* is not installed here"),
        ({"trainer_name": "np"}, "the trainer np .* is not installed here"),
    ],
)
def test_checkpoints_of_other_types(model, tmp_path, changes, message):
    file = model / "fold_0/checkpoint_final.pth"
    torch.save({**torch.load(file, weights_only=False), **changes}, file)
    with pytest.raises(ValueError, match=message):
        copy_for_inference(model, tmp_path / "slim", None, "checkpoint_final.pth")


def test_weights_that_do_not_fit_are_one_short_line(model, tmp_path, capsys):
    file = model / "fold_0/checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["network_weights"] = {f"module.{key}": value for key, value in checkpoint["network_weights"].items()}
    torch.save(checkpoint, file)
    for verb, run in VERBS.items():
        if verb != "package a ZIP":
            assert run(model, tmp_path) == 1
            line = one_line(capsys)
            assert f"{file}: the weights do not fit the network of the plans: unknown keys ['module." in line
            assert " more, missing [" in line and len(line) < 1000


def test_modality_in_place_of_channel_names(model, tmp_path):
    dataset = json.loads((model / "dataset.json").read_text())
    dataset["modality"] = dataset.pop("channel_names")
    (model / "dataset.json").write_text(json.dumps(dataset))
    found = copy_for_inference(model, tmp_path / "slim", None, "checkpoint_final.pth")
    assert found.channel_names == tuple(dataset["modality"].values())
    assert CasePredictor(tmp_path / "slim", Choices(("0",)), "cpu").model.n_channels == 4


def test_folds_of_different_models_are_refused(trained_model, tmp_path):
    folder = shutil.copytree(trained_model.folder, tmp_path / "model")
    file = folder / "fold_1/checkpoint_final.pth"
    torch.save({**torch.load(file, weights_only=False), "trainer_name": "nnUNetTrainerSegMamba"}, file)
    for use in (
        lambda folds: copy_for_inference(folder, tmp_path / f"slim_{len(folds)}", folds, "checkpoint_final.pth"),
        lambda folds: CasePredictor(folder, Choices(tuple(folds)), "cpu"),
    ):
        with pytest.raises(ValueError, match="are different models: .*nnUNetTrainerSegMamba.*; take those of one"):
            use(["0", "1"])
        use(["0"])
