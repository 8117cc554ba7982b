import json

import pytest

from nnunetv2_mamba.packaging.bill_of_materials import bill_of_materials
from nnunetv2_mamba.packaging.checksums import sha256

PINS = {"numpy": "2.4.6", "torch": "2.4.0+cpu"}


@pytest.fixture
def wheel(tmp_path):
    file = tmp_path / "nnunetv2_mamba-0.1.0-py3-none-any.whl"
    file.write_bytes(b"wheel")
    return file


def test_all_that_is_put_in_or_pinned_is_listed(wheel):
    bill = bill_of_materials(
        "team/name:1", f"python:3.11-bookworm@sha256:{'b' * 64}", PINS, wheel, {"f/w.pth": "c" * 64}
    )
    assert bill["metadata"]["component"]["name"] == "team/name:1"
    base, *packages, weights = bill["components"]
    assert (base["type"], base["name"], base["version"]) == ("container", "python", "3.11-bookworm")
    assert base["hashes"] == [{"alg": "SHA-256", "content": "b" * 64}]
    assert [package["purl"] for package in packages] == [
        *("pkg:pypi/numpy@2.4.6", "pkg:pypi/torch@2.4.0%2Bcpu", "pkg:pypi/nnunetv2-mamba@0.1.0")
    ]
    assert packages[-1]["hashes"][0]["content"] == sha256(wheel)
    assert (weights["name"], weights["hashes"][0]["content"]) == ("f/w.pth", "c" * 64)


@pytest.mark.parametrize(
    ("base", "name", "version"),
    [("python", "python", "latest"), ("host:5000/a/python", "host:5000/a/python", "latest"), ("a/b:1", "a/b", "1")],
)
def test_the_base_is_named_as_docker_does(wheel, base, name, version):
    component = bill_of_materials("x", base, {}, wheel, {})["components"][0]
    assert (component["name"], component["version"]) == (name, version)
    assert "hashes" not in component


def test_it_is_cyclonedx(wheel):
    validation = pytest.importorskip("cyclonedx.validation.json", reason="needs cyclonedx-python-lib[json-validation]")
    schema = pytest.importorskip("cyclonedx.schema")
    bill = bill_of_materials("team/name:1", "python:3.11-bookworm", PINS, wheel, {"f/w.pth": "c" * 64})
    error = validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(json.dumps(bill))
    assert error is None, error
