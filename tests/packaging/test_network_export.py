import os
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from documentation import BLOCKS
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.architectures.blocks.mixers import sequence_mixer
from nnunetv2_mamba.cli import main
from nnunetv2_mamba.packaging import network_export as module
from nnunetv2_mamba.packaging.network_export import export


@pytest.fixture(autouse=True)
def our_trainers(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)


@pytest.fixture
def logits(trained_model):
    """An input and what the second fold's network makes of it."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained_model.folder), (1,))
    x = torch.randn(1, 4, *predictor.configuration_manager.patch_size)
    with torch.inference_mode():
        return x, predictor.network.eval()(x).numpy()


@pytest.mark.slow
def test_onnx(trained_model, tmp_path, logits):
    onnxruntime = pytest.importorskip("onnxruntime")
    print(export(trained_model.folder, tmp_path / "network.onnx", "onnx", fold="1"))
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: logits[0].numpy()})
    np.testing.assert_allclose(result, logits[1], atol=1e-4)


def test_a_package_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    message = 'it cannot be exported: there is no onnxruntime; pip install "nnunetv2-mamba.onnx."'
    with pytest.raises(ValueError, match=message), module._failure_named("it cannot be exported"):
        module._to_onnx(None, None, None)


@pytest.mark.slow
def test_torch_export(trained_model, tmp_path, logits):
    print(export(trained_model.folder, tmp_path / "network.pt2", "torch-export", fold="1"))
    result = torch.export.load(tmp_path / "network.pt2").module()(logits[0])
    np.testing.assert_allclose(result.detach().numpy(), logits[1], atol=1e-4)


SHELL = [block for block in BLOCKS if block.language == "bash"]
COMMANDS = [words for block in SHELL for words in block.commands if words[:2] == ["nnunetv2_mamba", "export"]]


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[3])
def test_the_documented_commands(trained_model, tmp_path, monkeypatch, words):
    if "--onnx" in words:
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    assert main([str(trained_model.folder) if word == "MODEL_FOLDER" else word for word in words[1:]]) == 0
    assert Path(words[-1]).stat().st_size


@pytest.mark.parametrize(("option", "kind"), [("--onnx", "onnx"), ("--torch-export", "torch-export")])
def test_the_command_changes_no_environment(monkeypatch, capsys, option, kind):
    calls = []
    monkeypatch.setenv("NNUNETV2_MAMBA_SCAN", "cpu")
    monkeypatch.setattr(module, "export", lambda *args: calls.append(args) or "ok")
    assert main(["export", "MODEL", option, "FILE", "--fold", "1", "--checkpoint", "checkpoint_best.pth"]) == 0
    assert calls == [(Path("MODEL"), Path("FILE"), kind, "1", "checkpoint_best.pth")]
    assert capsys.readouterr().out == "ok\nwritten: FILE\n"
    assert os.environ["NNUNETV2_MAMBA_SCAN"] == "cpu"


class OneLayer(torch.nn.Module):
    def __init__(self, mixer: str = "mamba"):
        super().__init__()
        self.layer = sequence_mixer(mixer, 4, torch.nn.Conv2d, scan="bidirectional", d_state=2)

    def forward(self, x):
        return self.layer(x, (2, 3))


@pytest.mark.parametrize("asked", [pytest.param("auto", marks=pytest.mark.slow), "reference"])
@pytest.mark.parametrize("mixer", ["mamba", "mamba2"])
def test_the_graph_has_no_operator_of_ours_whatever_backend_is_asked_for(monkeypatch, mixer, asked):
    monkeypatch.setenv("NNUNETV2_MAMBA_SCAN", asked)
    network, x = OneLayer(mixer).eval(), torch.randn(1, 6, 4)
    program = module._in_plain_operations(module._traced(network, x), x)
    assert not [node for node in program.graph.nodes if "nnunetv2_mamba" in str(node.target)]
    torch.testing.assert_close(program.module()(x), network(x))
    assert os.environ["NNUNETV2_MAMBA_SCAN"] == asked


def test_torchs_own_choice_of_tracing_does_not_matter(monkeypatch):
    """In 2.6 it is Dynamo, in whose graphs a table of paths is an operator of this package."""
    monkeypatch.setattr(torch.export, "export", partial(torch.export.export, strict=True))
    program = module._traced(OneLayer().eval(), torch.randn(1, 6, 4))
    ours = {str(node.target) for node in program.graph.nodes if "nnunetv2_mamba" in str(node.target)}
    assert ours == {"nnunetv2_mamba.causal_conv1d.default", "nnunetv2_mamba.directional_scan.default"}


def test_long_scans_are_refused(trained_model, tmp_path, monkeypatch):
    monkeypatch.setitem(module.MAX_STEPS, "onnx", 10)
    with pytest.raises(ValueError, match=r"nnUNetTrainerUMambaBot \(fold 0\) take \d+ steps .* more than 10"):
        export(trained_model.folder, tmp_path / "network.onnx", "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("exporter", "message"),
    [
        (lambda program, x, file: program.module()(x).detach().numpy() + 1, "differs from the network"),
        (lambda program, x, file: np.full((1,), np.nan), "differs from the network by nan"),
        (lambda program, x, file: 1 / 0, "cannot be exported with torch-export: ZeroDivisionError"),
    ],
)
def test_what_is_not_the_network_is_not_kept(trained_model, tmp_path, monkeypatch, exporter, message):
    monkeypatch.setattr(module, "_to_torch_export", exporter)
    with pytest.raises(ValueError, match=message):
        export(trained_model.folder, tmp_path / "network.pt2", "torch-export")
    assert not list(tmp_path.iterdir())


def test_the_ending_is_checked_before_anything_else(tmp_path):
    with pytest.raises(ValueError, match="must end in .onnx"):
        export(tmp_path / "no-model", tmp_path / "network.pt2", "onnx")


def test_only_the_fold_that_is_exported_is_read(trained_model, tmp_path):
    folder = shutil.copytree(trained_model.folder, tmp_path / "model")
    (folder / "fold_0/checkpoint_final.pth").write_bytes(b"")
    assert module._load(folder, "1", "checkpoint_final.pth")[2] == "nnUNetTrainerUMambaBot (fold 1)"
    with pytest.raises(ValueError, match="fold_0/checkpoint_final.pth is damaged"):
        module._load(folder, None, "checkpoint_final.pth")


def test_what_cannot_be_traced_is_named(trained_model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: 1 / 0)
    with pytest.raises(ValueError, match=r"nnUNetTrainerUMambaBot \(fold 0\) cannot be exported with onnx: ZeroDiv"):
        export(trained_model.folder, tmp_path / "network.onnx", "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["nowhere/network.onnx", "folder.onnx"])
def test_what_cannot_be_written_is_found_before_the_work(tmp_path, place):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(OSError, match=place):
        export(tmp_path / "no-model", tmp_path / place, "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.onnx"]
