"""Each platform's container, built from its Dockerfile and run as the platform runs it; see ``engines.py``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import invoke_platform
import layouts
import pytest
import tiny_dataset

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.packaging import build_context
from nnunetv2_mamba.packaging.build_context import Request, write_context
from nnunetv2_mamba.packaging.container_check import check_container, find_engine
from nnunetv2_mamba.packaging.platforms import PLATFORMS

pytestmark = pytest.mark.slow
USER = 54321  # whom no image knows
STRICT = ["--rm", "--network", "none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
STRICT += ["--user", f"{USER}:{USER}", "--shm-size=1m"]
TEMPORARY = ["--tmpfs", "/tmp"]


def write_with(wheel: Path, request: Request, folder: Path) -> None:
    """The build context with this wheel: with the same one, images share their layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_extTrainer", DISCOVERY)
        patch.setattr(build_context, "write_wheel", lambda target: Path(shutil.copy(wheel, target)))
        write_context(request, folder)


@pytest.fixture(scope="module")
def package(engine, trained_model, built_wheel, tmp_path_factory):
    """A platform's build context, built once; the folder and the image's name."""
    made = {}

    def package_and_build(platform: str, gpu: bool = False, **options: str) -> tuple[Path, str]:
        image = "-".join(["nnunetv2-mamba-test", platform, "gpu" if gpu else "cpu", *options.values()])
        if image not in made:
            folder = tmp_path_factory.mktemp("context") / "context"
            options = {**layouts.OPTIONS.get(platform, {}), **options}
            request = Request(trained_model.folder, platform, gpu=gpu, image=image, options=options)
            write_with(built_wheel, request, folder)
            done = engine.run("docker", "build", "--tag", image, folder)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            made[image] = folder
        return made[image], image

    return package_and_build


def volumes(mounted: dict[str, Path]) -> list[str]:
    return [word for target, folder in mounted.items() for word in ("--volume", f"{folder}:{target}")]


def output_folder(folder: Path) -> Path:
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def failures(done: subprocess.CompletedProcess) -> list[str]:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if "FAILED" in line]


def run_as_the_platform_does(engine, folder: Path, inputs: Path, output: Path, *arguments: str) -> None:
    done = engine.run(folder / "test_run.sh", inputs, output, *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def check(folder: Path, references: dict[str, Path], geometries: dict[str, Path], owner: int | None = None) -> None:
    """Check that these files are there, and no others, with these labels where those images lie."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert set(files) == set(references)
    for name, file in files.items():
        assert layouts.geometry(file) == layouts.geometry(geometries[name])
        layouts.assert_same_labels(file, references[name])
        assert owner is None or file.stat().st_uid == owner


def check_grand_challenge(folder: Path, reference: Path, source: Path, owner: int | None = None) -> None:
    """Check the segmentation as ``check``, and that the probability map and the volumes are beside it."""
    likely, ml = folder / "images/likely/output.mha", folder / "ml.json"
    assert layouts.geometry(likely) == layouts.geometry(source)
    assert 0 <= layouts.voxels(likely).min() < layouts.voxels(likely).max() <= 1
    found = json.loads(ml.read_text())
    assert set(found) == {"large", "small"} and min(found.values()) > 0
    for file in (likely, ml):
        assert owner is None or file.stat().st_uid == owner
        file.unlink()
    check(folder, *({"images/organs/output.mha": file} for file in (reference, source)), owner)


def of_cases(model) -> tuple[dict[str, Path], dict[str, Path]]:
    """References and images of the model's cases, by the names of the segmentations."""
    references = {f"{name}.nii.gz": file for name, file in model.references.items()}
    return references, {f"{name}.nii.gz": files[0] for name, files in model.cases.items()}


def only(name: str, *files: dict[str, Path]) -> list[dict[str, Path]]:
    return [{name: each[name]} for each in files]


def test_flare(engine, package, trained_model, tmp_path):
    folder, image = package("flare")
    references, images = of_cases(trained_model)
    inputs = layouts.flare(tmp_path / "inputs", trained_model.cases)
    run_as_the_platform_does(engine, folder, inputs, tmp_path / "all")
    check(tmp_path / "all", references, images)

    def run(inputs: Path) -> subprocess.CompletedProcess:
        output = output_folder(tmp_path / f"strict-{inputs.name}")
        mounted = volumes({"/workspace/inputs": inputs, "/workspace/outputs": output})
        return engine.run("docker", "run", *STRICT, *TEMPORARY, *mounted, image, "/bin/bash", "-c", "sh predict.sh")

    damaged = layouts.flare(tmp_path / "damaged", trained_model.cases)
    layouts.truncate(damaged / "case_0_0000.nii.gz")
    (damaged / "case_1_0003.nii.gz").unlink()
    first, second = failures(run(damaged))
    assert "/workspace/inputs/case_0_0000.nii.gz is damaged" in first
    assert "/workspace/inputs/case_1_0003.nii.gz is missing" in second
    check(tmp_path / "strict-damaged", *only("case_2.nii.gz", references, images), owner=USER)
    (line,) = failures(run(output_folder(tmp_path / "empty")))
    assert "/workspace/inputs has no CASE_0000.nii.gz" in line


@pytest.mark.parametrize(
    ("options", "mode", "message"),
    [
        (TEMPORARY, 0o755, "inference: FAILED: nothing can be written to /workspace/outputs: Permission denied"),
        ([], 0o777, "inference: FAILED: [Errno 2] No usable temporary directory found in "),
    ],
    ids=["output", "temporary folder"],
)
def test_what_cannot_be_written_to_is_one_line(engine, package, trained_model, tmp_path, options, mode, message):
    """Said before the prediction, of which standard output would tell; the output folder belongs to root."""
    _, image = package("flare")
    inputs = layouts.flare(tmp_path / "inputs", trained_model.cases)
    output = output_folder(tmp_path / "outputs")
    output.chmod(mode)
    mounted = volumes({"/workspace/inputs": inputs, "/workspace/outputs": output})
    done = engine.run("docker", "run", *STRICT, *options, *mounted, image)
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)
    assert (done.returncode, done.stdout) == (1, "")
    assert not list(output.iterdir())


def test_flare_with_cuda_and_without_a_gpu(engine, package, trained_model, tmp_path):
    if engine.name == "docker":
        pytest.skip("PyPI's PyTorch with CUDA is some gigabytes")
    _, image = package("flare", gpu=True)
    references, images = of_cases(trained_model)
    inputs = layouts.flare(tmp_path / "inputs", {"case_0": trained_model.cases["case_0"]})
    output = output_folder(tmp_path / "outputs")
    mounted = volumes({"/workspace/inputs": inputs, "/workspace/outputs": output})
    done = engine.run("docker", "run", *STRICT, *TEMPORARY, "--cpuset-cpus=0", *mounted, image)
    assert done.returncode == 0, done.stderr
    assert "inference: NO GPU, so it runs on the CPU, many times slower: " in done.stderr
    assert "on the CPU" in done.stdout
    check(output, *only("case_0.nii.gz", references, images), owner=USER)


def test_brats(engine, package, trained_model, tmp_path):
    """As of 2025, and as the MLCubes of before."""
    folder, image = package("brats")
    references, images = of_cases(trained_model)
    inputs = layouts.brats(tmp_path / "inputs", layouts.MODALITIES, trained_model.cases)
    run_as_the_platform_does(engine, folder, inputs, tmp_path / "2025")
    check(tmp_path / "2025", references, images, owner=os.getuid())
    run_as_the_platform_does(engine, folder, inputs, tmp_path / "2024", "2024")
    check(tmp_path / "2024", references, images, owner=os.getuid())

    damaged = layouts.brats(tmp_path / "damaged", layouts.MODALITIES, trained_model.cases)
    (damaged / "case_0" / "case_0-t2f.nii.gz").unlink()
    layouts.truncate(damaged / "case_1" / "case_1-t1n.nii.gz")
    output = output_folder(tmp_path / "mlcube")
    mounted = volumes({"/mlcube_io0": damaged, "/mlcube_io2": output})
    arguments = ["infer", "--data_path=/mlcube_io0", "--output_path=/mlcube_io2"]
    first, second = failures(engine.run("docker", "run", *STRICT, *TEMPORARY, *mounted, image, *arguments))
    assert "/mlcube_io0/case_0/case_0-t2f.nii.gz is missing" in first
    assert "/mlcube_io0/case_1/case_1-t1n.nii.gz is damaged" in second
    check(output, *only("case_2.nii.gz", references, images), owner=USER)
    empty = output_folder(tmp_path / "empty")
    mounted = volumes({"/input": empty, "/output": output_folder(tmp_path / "none")})
    (line,) = failures(engine.run("docker", "run", *STRICT, *TEMPORARY, *mounted, image))
    assert "/input has no folder of a case" in line


@pytest.mark.parametrize("api", ["exec", "invoke"])
def test_grand_challenge_as_its_script_does(engine, package, trained_model, tmp_path, api):
    folder, _ = package("grand-challenge", api=api)
    inputs, reference, source = of_grand_challenge(trained_model, tmp_path / "good")
    run_as_the_platform_does(engine, folder, inputs, tmp_path / "output")
    check_grand_challenge(tmp_path / "output", reference, source)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_check_of_package(engine, package, monkeypatch, platform):
    """On noise, laid out as the platform does; the measurement is in the image's card."""
    folder, image = package(platform)
    monkeypatch.setenv("PATH", engine.path)
    measured = check_container(folder, find_engine())
    (case,) = measured["cases"]
    assert tuple(case["size"]) == tuple(reversed(tiny_dataset.SHAPE))
    assert case["memory_mib"] > 100
    assert measured["device"].startswith("the CPU, causal_conv1d by cpu, directional_scan by cpu")
    done = engine.run("docker", "run", "--rm", "--entrypoint", "cat", image, "/opt/app/model_card.json")
    assert json.loads(done.stdout)["measured"] == json.loads(json.dumps(measured))


def test_weights_that_are_not_those_of_the_package(engine, package, trained_model, tmp_path):
    folder, image = package("grand-challenge", api="exec")
    model = unpacked_model(folder, tmp_path / "model")
    weights = model / "fold_1" / "checkpoint_final.pth"
    weights.write_bytes(weights.read_bytes() + b"x")
    inputs = of_grand_challenge(trained_model, tmp_path / "good")[0]
    output = output_folder(tmp_path / "output")
    mounted = volumes({"/input": inputs, "/output": output, "/opt/ml/model": model})
    (line,) = failures(engine.run("docker", "run", *STRICT, *TEMPORARY, *mounted, image))
    assert "/opt/ml/model/fold_1/checkpoint_final.pth is not the file that was packaged" in line


def of_grand_challenge(model, folder: Path, name: str = "case_0") -> tuple[Path, Path, Path]:
    """A case as it is laid out, the reference of its result, and an image that lies where the result does: askew."""
    inputs = layouts.grand_challenge(folder, layouts.SLUGS, model.cases[name])
    (source,) = (inputs / "images" / layouts.SLUGS[0]).iterdir()
    return inputs, model.references[name], source


def bad_cases_of_grand_challenge(model, folder: Path) -> dict[Path, str]:
    """Input folders, and what is said of each."""
    missing, damaged = (of_grand_challenge(model, folder / name)[0] for name in ("missing", "damaged"))
    last = layouts.SLUGS[-1]
    next((missing / "images" / last).iterdir()).unlink()
    layouts.truncate(next((damaged / "images" / last).iterdir()))
    return {
        missing: f"/input/images/{last} must have one .mha file",
        damaged: f"/input/images/{last}/6f1c-{len(layouts.SLUGS) - 1}.mha",
        output_folder(folder / "empty"): "/input/inputs.json is missing",
    }


def unpacked_model(context: Path, folder: Path) -> Path:
    shutil.unpack_archive(context / "model.tar.gz", folder, "gztar")
    return folder


def test_grand_challenge_by_exec(engine, package, trained_model, tmp_path):
    folder, image = package("grand-challenge", api="exec")
    model = unpacked_model(folder, tmp_path / "model")

    def run(inputs: Path) -> tuple[subprocess.CompletedProcess, Path]:
        output = output_folder(tmp_path / f"strict-{inputs.name}")
        mounted = volumes({"/input": inputs, "/output": output, "/opt/ml/model": model})
        return engine.run("docker", "run", *STRICT, *TEMPORARY, *mounted, image), output

    good, reference, source = of_grand_challenge(trained_model, tmp_path / "good")
    done, output = run(good)
    assert done.returncode == 0
    check_grand_challenge(output, reference, source, owner=USER)
    for inputs, message in bad_cases_of_grand_challenge(trained_model, tmp_path).items():
        done, output = run(inputs)
        (line,) = failures(done)
        assert message in line
        assert not [path for path in output.rglob("*") if path.is_file()]


def test_grand_challenge_by_invoke(engine, package, trained_model, tmp_path):
    """Several cases and bad ones to one server, two requests at once, and SIGTERM; see ``invoke_platform.py``."""
    folder, image = package("grand-challenge", api="invoke")
    results = output_folder(tmp_path / "results")
    cases = tmp_path / "cases"
    cases.mkdir()
    good = {name: of_grand_challenge(trained_model, cases / name, name) for name in trained_model.cases}
    bad = {inputs.name: message for inputs, message in bad_cases_of_grand_challenge(trained_model, cases).items()}
    platform = Path(invoke_platform.__file__)
    mounted = volumes(
        {
            "/cases": cases,
            "/results": results,
            "/platform": output_folder(tmp_path / "platform"),
            "/opt/ml/model": unpacked_model(folder, tmp_path / "model"),
        }
    )
    shutil.copy(platform, tmp_path / "platform")
    empty = ["--tmpfs", "/input:mode=1777", "--tmpfs", "/output:mode=1777"]
    done = engine.run(
        *("docker", "run", *STRICT, *TEMPORARY, *empty, *mounted, "--entrypoint", "python", image),
        *(f"/platform/{platform.name}", "python", "-m", "nnunetv2_mamba.packaging.container"),
        *("/opt/app/inference.json", "serve"),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    answers = json.loads((results / "answers.json").read_text())
    assert answers["at once"] == [201, 201]
    assert answers["health during work"] == 200
    assert answers["exit code"] == 143
    for name, (_, reference, source) in good.items():
        assert answers[name] == [201, "Created"]
        check_grand_challenge(results / name, reference, source, owner=USER)
    for name, message in bad.items():
        status, text = answers[name]
        assert status == 500
        assert message in text
        assert not list((results / name).rglob("*.mha"))
    if [path for path in (results / "ended").rglob("*") if path.is_file()]:  # it was done before SIGTERM
        check_grand_challenge(results / "ended", *good["case_0"][1:])
    assert done.stdout.count("ready for requests") == 1
