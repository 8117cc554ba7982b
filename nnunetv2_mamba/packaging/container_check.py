"""Builds a written context and runs it as its platform does, by ``test_run.sh``; what that took goes into its card."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from ..files import read_json_object
from ..processes import end_group, start_group
from .build_context import let_everybody_read
from .case_report import read_lines
from .device_line import START
from .image_io import read_geometry
from .inference_settings import InferenceSettings
from .model_card import CARD, add_measurement
from .platforms import PLATFORMS

ENGINES = ("docker", "podman")
_ANSWER_TIME = 60.0  # seconds
_MOST_VOXELS = 512 * 512 * 1000  # of a made-up case
_USUAL_SIZE, _USUAL_SPACING = (128, 128, 128), (1.0, 1.0, 1.0)  # where the plans do not say


def find_engine() -> str:
    """The first of ``ENGINES`` that works here.

    Raises:
        ValueError: where none does.
    """
    for engine in ENGINES:
        try:
            done = subprocess.run([engine, "info"], capture_output=True, check=False, timeout=_ANSWER_TIME)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return engine
    raise ValueError(
        f"--check needs {' or '.join(ENGINES)}, and neither runs here: install one (apt-get install podman), or leave "
        "--check out and run test_run.sh where there is one"
    )


def check_container(context: Path, engine: str, given: Path | None = None) -> dict[str, Any]:
    """Build the image, segment a case in it, check the result, and write into the card what it took.

    Args:
        context: as of ``build_context.write_context``.
        engine: one of ``ENGINES``.
        given: a folder as the platform gives it; None for a case of noise, as large as the data set's median image.

    Returns:
        What was measured, as it is in ``model_card.json``.

    Raises:
        ValueError: where the image cannot be built, the container fails, or a result is missing or lies elsewhere than
            its image.
    """
    settings = InferenceSettings.read(context / "inference.json")
    platform = PLATFORMS[settings.platform]
    card = read_json_object(context / CARD)
    # what another user's rights wrote may not be ours to remove
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        inputs, output = given, Path(scratch) / "output"
        if given is None:
            inputs = Path(scratch) / "input"
            inputs.mkdir()
            platform.lay_out(_write_noise(card, Path(scratch)), inputs, settings)
            let_everybody_read(inputs)
        script = (context / "test_run.sh").absolute()  # a bare name would be looked for on PATH
        lines = _run([script, inputs, output], engine)
        for case in platform.find_cases(inputs, output, settings):
            if case.problem:
                raise ValueError(case.problem)
            for file in case.files:
                if not file.is_file():
                    raise ValueError(f"{context}: the container wrote no {file.relative_to(output)}")
            read_geometry([case.images[0], case.output])
    devices = [line.removeprefix(START) for line in lines if line.startswith(START)]
    measured = {
        "engine": subprocess.run([engine, "--version"], capture_output=True, text=True, check=False).stdout.strip(),
        "device": devices[-1] if devices else "not said",
        "input": "a case of noise, as large as the training data's median" if given is None else given.resolve().name,
        "cases": [cost._asdict() for cost in read_lines("\n".join(lines))],
    }
    add_measurement(context, measured)
    let_everybody_read(context)
    _run([engine, "build", "--platform=linux/amd64", "--tag", card["image"], context], engine)  # with the new card
    return measured


def _run(command: Sequence[object], engine: str) -> list[str]:
    """Run a command that may start the engine, showing what it says; its lines.

    Raises:
        ValueError: where it fails.
    """
    words = [str(word) for word in command]
    process = start_group(
        words,
        env={**os.environ, "DOCKER": engine},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines = []
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
        code = process.wait()
    finally:
        end_group(process)
    if code:
        raise ValueError(f"{words[0]} failed with exit code {code}: {lines[-1] if lines else 'it said nothing'}")
    return lines


def _write_noise(card: dict[str, Any], folder: Path) -> list[Path]:
    """Images of a size and spacing as the first model's training data had at median, a file for each channel."""
    data = card["models"][0]["data"]
    size = [max(round(edge), 1) for edge in data["median_size"] or _USUAL_SIZE]
    if np.prod(size) > _MOST_VOXELS:
        raise ValueError(f"the training data's median image has {size} voxels: give --check a folder with a case")
    random = np.random.default_rng(0)
    files = []
    for channel in range(len(data["channels"])):
        image = SimpleITK.GetImageFromArray(random.integers(1, 256, size[::-1], dtype=np.int16))
        image.SetSpacing(data["median_spacing"] or _USUAL_SPACING)
        files.append(folder / f"noise_{channel:04d}.nii.gz")
        SimpleITK.WriteImage(image, files[-1])
    return files
