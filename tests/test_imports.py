"""Imports run downwards only, and no module drags in what it does not need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nnunetv2_mamba

PACKAGE = Path(nnunetv2_mamba.__file__).parent
# Which rooms of the package the code of a room may import; a module at the top counts as a room.
# Everybody may use what knows nothing of the package.
COMMON = {"extensions", "files", "forked_children", "json_numbers", "nnunet_folders", "processes", "text", "versions"}
ALLOWED = {
    "extensions": set(),
    "files": set(),
    "forked_children": set(),
    "json_numbers": set(),
    "nnunet_folders": set(),
    "processes": set(),
    "text": set(),
    "versions": set(),
    "image_files": set(),
    "regions": set(),
    "temperature_file": set(),
    "__init__": {"architectures", "ops"},
    "__main__": {"cli"},
    "_register": set(),
    "discovery": {"trainers"},
    "ops": set(),
    "architectures": {"ops", "untrusted"},
    "losses": set(),
    "memory": set(),
    "nnunet": set(),
    "trainers": {"architectures", "losses", "memory", "nnunet", "ops", "regions", "untrusted"},
    "doctor": {"_register", "architectures", "nnunet", "ops", "trainers"},
    "planning": {"architectures", "image_files", "memory", "nnunet", "regions", "trainers", "untrusted"},
    "evaluation": {"image_files", "regions", "results"},
    "results": {"nnunet", "untrusted"},
    "untrusted": set(),
    "benchmark": {"_register", "evaluation", "memory", "nnunet", "ops", "results", "trainers", "untrusted"},
    "freesurfer": {"image_files", "nnunet", "regions", "untrusted"},
    "packaging": {"architectures", "evaluation", "image_files", "memory", "nnunet", "ops", "temperature_file"}
    | {"untrusted"},
    "demo": {"_register"},
    "catalogue": {"_register", "architectures", "memory", "nnunet", "ops", "trainers", "untrusted"},
    "commands": {
        "architectures",
        "benchmark",
        "catalogue",
        "demo",
        "doctor",
        "evaluation",
        "freesurfer",
        "packaging",
        "planning",
    }
    | {"results", "temperature_file"},
    "cli": {"commands"},
}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imported_rooms(path: Path) -> set[str]:
    """The rooms that the file imports, anywhere in it."""
    package = ("nnunetv2_mamba", *path.parent.relative_to(PACKAGE).parts)
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) + "." if node.level else ""
            module = f"{base}{node.module or ''}".rstrip(".")
            names += [f"{module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("nnunetv2_mamba.")}


@pytest.mark.parametrize("file", FILES)
def test_imports_run_downwards(file):
    room = Path(file).parts[0].removesuffix(".py")
    assert imported_rooms(PACKAGE / file) - {room} <= ALLOWED[room] | COMMON


@pytest.mark.parametrize("file", FILES)
def test_accelerators_are_imported_by_their_backends_only(file):
    statements = ast.parse((PACKAGE / file).read_text(encoding="utf-8")).body
    imports = [ast.unparse(node).split()[1] for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    optional = {name.split(".")[0] for name in imports} & {"triton", "mamba_ssm", "causal_conv1d"}
    assert not optional or file.startswith("ops/backends/triton")


def test_start_up_imports_nothing_else(tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, {str(PACKAGE.parent)!r})
before = set(sys.modules)
import nnunetv2_mamba._register
print(*set(sys.modules) - before)
"""
    # -S: start-up files of other packages may have imported anything
    command = [sys.executable, "-S", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert set(result.stdout.split()) == {"nnunetv2_mamba", "nnunetv2_mamba._register"}


@pytest.mark.parametrize(
    ("module", "not_loaded"),
    [
        ("nnunetv2_mamba.cli", {"torch", "numpy", "nnunetv2", "matplotlib"}),
        ("nnunetv2_mamba.doctor", {"torch", "numpy", "nnunetv2"}),
        ("nnunetv2_mamba.evaluation.metrics", {"torch", "numpy", "pandas", "nnunetv2"}),
        ("nnunetv2_mamba.architectures", {"triton", "nnunetv2", "nnunetv2_mamba.ops.backends", "monai"}),
        (
            "nnunetv2_mamba.trainers",
            {f"nnunetv2_mamba.{room}" for room in ("evaluation", "freesurfer", "packaging", "results")} | {"monai"},
        ),
        ("nnunetv2_mamba.packaging.platforms", {"torch", "numpy", "nnunetv2", "jinja2"}),
        # its clock for the first case starts when it is there
        ("nnunetv2_mamba.packaging.container", {"torch", "numpy", "nnunetv2", "nibabel", "SimpleITK"}),
    ],
)
def test_import_loads_only_what_it_needs(module, not_loaded, tmp_path):
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import {module}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert not not_loaded & set(result.stdout.split())


def test_public_names_are_loaded_when_used():
    assert nnunetv2_mamba.SegMamba.__module__ == "nnunetv2_mamba.architectures.segmamba.network"
    assert set(nnunetv2_mamba.__all__) <= set(dir(nnunetv2_mamba))
    for name in nnunetv2_mamba.__all__:
        assert callable(getattr(nnunetv2_mamba, name))
    with pytest.raises(AttributeError, match="no attribute 'SegMamab'"):
        _ = nnunetv2_mamba.SegMamab
