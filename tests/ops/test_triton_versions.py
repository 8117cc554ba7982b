"""The heavy Triton kernels compiled without a GPU by several versions of Triton, each in a process of its own.

NNUNETV2_MAMBA_TRITONS names a folder with one folder per version, as made by
`pip install --no-deps --target FOLDER/3.6.0 triton==3.6.0`. Without it, the versions below are fetched into a temporary
folder, about 200 MB each; where that fails, the test fails.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = os.environ.get("NNUNETV2_MAMBA_TRITONS")
VERSIONS = ("3.0.0", "3.2.0", "3.4.0", "3.6.0", "3.9.0")
# (capability, precision): each architecture once, as far as a version knows it.
TARGETS = {version: [(80, "float16"), (90, "bfloat16")] for version in VERSIONS}
TARGETS["3.6.0"] = [*TARGETS["3.6.0"], (75, "float16"), (100, "bfloat16"), (120, "float16")]
TARGETS["3.9.0"] = TARGETS["3.6.0"]
HEAVY = (
    *("run_end_kernel", "carry_kernel", "scan_kernel", "run_adjoint_kernel", "adjoint_kernel"),
    *("conv_weight_gradient_kernel", "token_gradient_kernel", "weight_gradient_kernel"),
)
STACK_BYTES = {"adjoint_kernel": 32}  # outside its inner loops


def folder_of(version: str, downloads: Path) -> Path:
    if FOLDER is not None:
        return Path(FOLDER) / version
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(downloads / version)]
    subprocess.run([*pip, f"triton=={version}"], check=True)
    return downloads / version


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_heavy_kernels_compile_and_do_not_spill(version, tmp_path):
    folder = folder_of(version, tmp_path)
    assert (folder / "triton").is_dir(), f"{folder} holds no triton"
    paths = [str(folder), str(Path(__file__).parent), *(path for path in sys.path if path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, __file__, json.dumps(TARGETS[version])]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["version"] == version
    print(result.stdout)
    for target, usages in found["usages"].items():
        assert {usage["kernel"] for usage in usages} == set(HEAVY)
        for usage in usages:
            assert usage["stack_bytes"] <= STACK_BYTES.get(usage["kernel"], 0), f"{target}: {usage}"


def usages(capability: int, precision: str) -> list[dict]:
    import torch
    from offline_gpu import compiling_for, usage_of, use_convolution, use_scan, use_ssd

    from nnunetv2_mamba.ops.backends import triton_ssd
    from nnunetv2_mamba.ops.backends.triton_launch import compile_ahead

    dtype = getattr(torch, precision)
    triton_ssd._has_tf32 = lambda device: capability >= 80

    def use(launch):
        def heavy(file, kernel, *arguments, **constants):
            if kernel in HEAVY:
                launch(file, kernel, *arguments, **constants)

        use_scan(heavy, 3, 32768, 192, 16, dtype, gated=True)
        use_scan(heavy, 8, 1728, 1024, 64, dtype, gated=False)
        use_convolution(heavy, dtype)
        use_ssd(heavy, 3, 8, 24, 16, dtype, shared=False)

    with compiling_for(capability):
        return [vars(usage_of(kernel)) for kernel in compile_ahead(use)]


if __name__ == "__main__":
    import triton

    measured = {f"sm_{target[0]} {target[1]}": usages(*target) for target in json.loads(sys.argv[1])}
    print(json.dumps({"version": triton.__version__, "usages": measured}))
