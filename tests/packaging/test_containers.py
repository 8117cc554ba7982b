"""Each platform's container, built from its Dockerfile and run as the platform runs it; see ``image.py``."""

from __future__ import annotations

from pathlib import Path

import image
import layouts
import pytest
from trained_model import MODALITIES

from nnunetv2_mamba.packaging.context import Request, write_context

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(image.why_not() is not None, reason=f"no images here: {image.why_not()}"),
]


def build(folder: Path, model: Path, platform: str, **options) -> image.Image:
    write_context(Request(model, platform, gpu=False, **options), folder / "context")
    built = image.Image(folder / "context", folder / "image")
    if platform == "grand-challenge":
        (folder / "model").mkdir()
        image.unpack(folder / "context" / "model.tar.gz", folder / "model")
    return built


def output_folder(folder: Path) -> Path:
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def check_flare(tmp_path: Path, model: Path, cases: layouts.Cases, references: dict[str, Path]) -> None:
    container = build(tmp_path, model, "flare")
    everything = layouts.flare(tmp_path / "inputs", cases)
    one = layouts.flare(tmp_path / "one", dict(list(cases.items())[:1]))
    damaged = layouts.flare(tmp_path / "damaged", cases)
    name, *others = cases
    layouts.truncate(damaged / f"{name}_0000.nii.gz")
    incomplete = layouts.flare(tmp_path / "incomplete", cases)
    channels = len(cases[name])
    (incomplete / f"{name}_{channels - 1:04d}.nii.gz").unlink()
    empty = output_folder(tmp_path / "empty")

    def run(inputs: Path) -> tuple:
        output = output_folder(tmp_path / f"outputs-{inputs.name}")
        volumes = {"/workspace/inputs": (inputs, "ro"), "/workspace/outputs": (output, "rw")}
        return container.run("/bin/bash", "-c", "sh predict.sh", volumes=volumes), output

    for inputs, names in ((everything, list(cases)), (one, [name])):
        done, output = run(inputs)
        assert done.returncode == 0, done.stderr
        assert sorted(file.name for file in output.iterdir()) == [f"{case}.nii.gz" for case in sorted(names)]
        for case in names:
            check_same(output / f"{case}.nii.gz", references[case], cases[case][0])
    done, output = run(damaged)
    assert done.returncode == 1
    assert f"/workspace/inputs/{name}_0000.nii.gz" in done.stderr
    assert sorted(file.name for file in output.iterdir()) == [f"{case}.nii.gz" for case in sorted(others)]
    if channels > 1:
        done, output = run(incomplete)
        assert done.returncode == 1
        assert f"/workspace/inputs/{name}_{channels - 1:04d}.nii.gz is missing" in done.stderr
        assert sorted(file.name for file in output.iterdir()) == [f"{case}.nii.gz" for case in sorted(others)]
    done, output = run(empty)
    assert done.returncode == 1
    assert "/workspace/inputs has no" in done.stderr


def check_brats(
    tmp_path: Path, model: Path, modalities: tuple[str, ...], cases: layouts.Cases, references: dict[str, Path]
) -> None:
    container = build(tmp_path, model, "brats", modalities=modalities)
    cases = {f"BraTS-GLI-{number:05d}-000": files for number, files in enumerate(cases.values())}
    references = dict(zip(cases, references.values(), strict=True))
    everything = layouts.brats(tmp_path / "inputs", modalities, cases)
    damaged = layouts.brats(tmp_path / "damaged", modalities, cases)
    first, second, *others = cases
    (damaged / first / f"{first}-{modalities[-1]}.nii.gz").unlink()
    layouts.truncate(damaged / second / f"{second}-{modalities[0]}.nii.gz")

    def run(inputs: Path) -> tuple:
        output = output_folder(tmp_path / f"outputs-{inputs.name}")
        volumes = {"/input": (inputs, "ro"), "/output": (output, "rw")}
        return container.run(volumes=volumes, user="4711:4711"), output

    one = layouts.brats(tmp_path / "one", modalities, {first: cases[first]})
    for inputs, names in ((everything, list(cases)), (one, [first])):
        done, output = run(inputs)
        assert done.returncode == 0, done.stderr
        assert sorted(file.name for file in output.iterdir()) == [f"{name}.nii.gz" for name in names]
        for name in names:
            check_same(output / f"{name}.nii.gz", references[name], cases[name][0])
    done, output = run(output_folder(tmp_path / "empty"))
    assert done.returncode == 1
    assert "/input has no" in done.stderr

    output = output_folder(tmp_path / "outputs-mlcube")  # and as an MLCube
    volumes = {"/mlcube_io0": (damaged, "ro"), "/mlcube_io2": (output, "rw")}
    arguments = ("infer", "--data_path=/mlcube_io0", "--output_path=/mlcube_io2")
    done = container.run(*arguments, volumes=volumes, user="4711:4711")
    assert done.returncode == 1
    assert f"/mlcube_io0/{first}/{first}-{modalities[-1]}.nii.gz is missing" in done.stderr
    assert f"/mlcube_io0/{second}/{second}-{modalities[0]}.nii.gz is damaged" in done.stderr
    assert sorted(file.name for file in output.iterdir()) == [f"{name}.nii.gz" for name in others]


def check_grand_challenge(tmp_path: Path, model: Path, images: list[Path], reference: Path) -> None:
    slugs = [f"mri-{number}" for number in range(len(images))]
    interfaces = ["organs=output", *(f"{slug}={number}" for number, slug in enumerate(slugs))]
    container = build(tmp_path, model, "grand-challenge", interfaces=interfaces)

    def run(inputs: Path) -> tuple:
        output = output_folder(tmp_path / f"output-{inputs.name}")
        volumes = {"/input": (inputs, "ro"), "/output": (output, "rw"), "/opt/ml/model": (tmp_path / "model", "ro")}
        return container.run(volumes=volumes), output / "images" / "organs"

    good = layouts.grand_challenge(tmp_path / "good", slugs, images)
    done, output = run(good)
    assert done.returncode == 0, done.stderr
    assert [file.suffix for file in output.iterdir()] == [".mha"]
    (file,) = output.iterdir()
    (source,) = (good / "images" / slugs[0]).iterdir()
    assert layouts.geometry(file) == layouts.geometry(source)
    layouts.assert_same_labels(file, reference)

    missing = layouts.grand_challenge(tmp_path / "missing", slugs, images)
    next((missing / "images" / slugs[-1]).iterdir()).unlink()
    damaged = layouts.grand_challenge(tmp_path / "damaged", slugs, images)
    layouts.truncate(next((damaged / "images" / slugs[-1]).iterdir()))
    empty = output_folder(tmp_path / "empty")
    for inputs, named in (
        (missing, f"/input/images/{slugs[-1]} must have one .mha file"),
        (damaged, f"/input/images/{slugs[-1]}/6f1c-{len(slugs) - 1}.mha"),
        (empty, "/input/inputs.json is missing"),
    ):
        done, output = run(inputs)
        assert done.returncode == 1
        assert named in done.stderr
        assert not output.exists() or not list(output.iterdir())


def check_same(file: Path, reference: Path, source: Path) -> None:
    assert layouts.geometry(file) == layouts.geometry(source)
    layouts.assert_same_labels(file, reference)


def test_flare(tmp_path, trained_model):
    check_flare(tmp_path, trained_model.folder, trained_model.cases, trained_model.references)


def test_brats(tmp_path, trained_model):
    check_brats(tmp_path, trained_model.folder, MODALITIES, trained_model.cases, trained_model.references)


def test_grand_challenge(tmp_path, trained_model):
    check_grand_challenge(
        tmp_path, trained_model.folder, trained_model.cases["case_0"], trained_model.references["case_0"]
    )
