"""A container's program as a server, with a model, called and ended as grand-challenge does."""

import os
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import layouts
import pytest
import SimpleITK
from test_invoke_server import SOON, Called, call, free_port, health, impatient, until

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.packaging import container
from nnunetv2_mamba.packaging.case_predictor import CasePredictor, SegmentedCase
from nnunetv2_mamba.packaging.inference_settings import Choices, InferenceSettings

RESULT = "images/organs/output.mha"
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture
def program(trained_model, tmp_path, monkeypatch):
    """The arguments of a container that serves, with an empty output folder."""
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)
    InferenceSettings(
        "grand-challenge",
        channels=layouts.SLUGS,
        output="images/organs",
        model=str(trained_model.folder),
        n_channels=4,
        choices=Choices(("0", "1")),
    ).write(tmp_path / "inference.json")
    (tmp_path / "output").mkdir()
    folders = ["--input", str(tmp_path / "input"), "--output", str(tmp_path / "output")]
    return [str(tmp_path / "inference.json"), "serve", *folders]


def provide(folder: Path, images) -> Path:
    """A case in the place of the one before, as the platform does; its first image."""
    shutil.rmtree(folder / "input", ignore_errors=True)
    shutil.rmtree(folder / "output")
    (folder / "output").mkdir()
    layouts.grand_challenge(folder / "input", layouts.SLUGS, images)
    return next((folder / "input" / "images" / layouts.SLUGS[0]).iterdir())


def written(folder: Path) -> list[str]:
    """All files, hidden ones too."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def serve_while(client, arguments) -> None:
    """Serve in this thread, which has the signals, while ``client`` calls; then SIGTERM. Raises what it raised."""
    raised, ended = [], threading.Event()

    def run():
        try:
            client()
        except BaseException as error:
            raised.append(error)
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=run, daemon=True).start()
    try:
        with pytest.raises(SystemExit) as end:
            container.main(arguments)
    finally:
        ended.set()
    if raised:
        raise raised[0]
    assert end.value.code == 143


@needs_signals
def test_cases_one_after_another_and_a_bad_image(program, trained_model, tmp_path, capsys, monkeypatch):
    port = free_port()
    loads, passes = [], []
    warm_up = CasePredictor.warm_up
    monkeypatch.setattr(CasePredictor, "warm_up", lambda self: passes.append(health(port)) or warm_up(self))

    def client():
        until(lambda: health(port) == 200)
        assert passes == [503]  # before it was good
        for name in ("case_0", "case_1"):
            source = provide(tmp_path, trained_model.cases[name])
            assert call(port, "POST", "/invoke") == (201, "Created")
            assert written(tmp_path / "output") == [RESULT]
            layouts.assert_same_labels(tmp_path / "output" / RESULT, trained_model.references[name])
            assert layouts.geometry(tmp_path / "output" / RESULT) == layouts.geometry(source)
        source = provide(tmp_path, trained_model.cases["case_2"])
        layouts.truncate(source)
        status, text = call(port, "POST", "/invoke")
        assert status == 500
        assert text.startswith(f"6f1c-0: FAILED: {source} is damaged")
        (tmp_path / "input" / "inputs.json").unlink()
        answer = call(port, "POST", "/invoke")
        assert answer == (500, f"inference: FAILED: {tmp_path / 'input' / 'inputs.json'} is missing")
        assert written(tmp_path / "output") == []
        provide(tmp_path, trained_model.cases["case_2"])
        assert call(port, "POST", "/invoke")[0] == 201
        layouts.assert_same_labels(tmp_path / "output" / RESULT, trained_model.references["case_2"])
        loads.extend(line for line in capsys.readouterr().out.splitlines() if line.startswith("on "))

    serve_while(client, [*program, "--port", str(port)])
    assert len(loads) == 1  # the device, said when the model is loaded


@needs_signals
def test_a_signal_in_the_middle_of_a_file_leaves_none(program, trained_model, tmp_path, monkeypatch):
    provide(tmp_path, trained_model.cases["case_0"])
    labels = SimpleITK.Image(2, 2, 2, SimpleITK.sitkUInt8)
    monkeypatch.setattr(CasePredictor, "segment", lambda *_, **__: SegmentedCase(labels, "made up"))
    port, begun, calls = free_port(), threading.Event(), []

    def write_a_half(image, path, **_):
        Path(path).write_bytes(b"half")
        begun.set()
        latest = time.monotonic() + SOON
        while time.monotonic() < latest:  # the signal comes now
            time.sleep(0.01)

    monkeypatch.setattr(SimpleITK, "WriteImage", write_a_half)

    def client():
        until(lambda: health(port) == 200)
        calls.append(Called(port, "POST", "/invoke"))
        assert begun.wait(SOON)
        (half,) = written(tmp_path / "output")
        assert half.startswith("images/organs/.partial-")

    serve_while(client, [*program, "--port", str(port)])
    assert calls[0].answer == (503, "the server was asked to end")
    assert written(tmp_path / "output") == []


@needs_signals
def test_nothing_is_written_for_a_client_that_went(program, trained_model, tmp_path, monkeypatch, capsys):
    provide(tmp_path, trained_model.cases["case_0"])
    port, begun, gone = free_port(), threading.Event(), threading.Event()

    def segment(self, *arguments, **options):
        begun.set()
        assert gone.wait(SOON)
        return SegmentedCase(SimpleITK.Image(2, 2, 2, SimpleITK.sitkUInt8), "made up")

    monkeypatch.setattr(CasePredictor, "segment", segment)

    def client():
        until(lambda: health(port) == 200)
        with impatient(port):
            assert begun.wait(SOON)
        time.sleep(0.1)  # until its farewell is here
        gone.set()
        (tmp_path / "input" / "inputs.json").unlink()
        assert call(port, "POST", "/invoke")[0] == 500  # after the other

    serve_while(client, [*program, "--port", str(port)])
    assert "6f1c-0: FAILED: whoever asked waits no longer, so nothing is written (" in capsys.readouterr().err
    assert written(tmp_path / "output") == []


@needs_signals
def test_what_cannot_be_served_is_one_line(program, tmp_path, capsys):
    port = free_port()
    arguments = [*program, "--port", str(port)]
    assert container.main([*arguments, "--weights", str(tmp_path / "nothing")]) == 1
    with socket.socket() as other:
        other.bind(("", port))
        other.listen()
        assert container.main(arguments) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("inference: FAILED: ") and str(tmp_path / "nothing") in first
    assert second.startswith(f"inference: FAILED: --port {port} cannot be served: ")
