import hashlib
import shutil
import subprocess

import pytest

from nnunetv2_mamba.packaging.checksums import check_files, write_checksums


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_bytes(b"{}")
    (folder / "fold_0" / "weights.pth").write_bytes(bytes(range(256)) * 9000)  # of more than one chunk
    return folder


def test_the_sums_are_sha256sums(model, tmp_path):
    sums = tmp_path / "SHA256SUMS"
    found = write_checksums(model, sums)
    assert found == {
        name: hashlib.sha256((model / name).read_bytes()).hexdigest() for name in ("fold_0/weights.pth", "plans.json")
    }
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", sums], cwd=model, check=True)
    check_files(model, sums)
    (model / "notes.txt").touch()  # others are nobody's business
    check_files(model, sums)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"x"), "weights.pth is not the file that was packaged"),
        (lambda file: file.unlink(), "weights.pth is missing, which .*SHA256SUMS lists"),
    ],
)
def test_a_file_that_changed_is_named(model, tmp_path, change, message):
    write_checksums(model, tmp_path / "SHA256SUMS")
    change(model / "fold_0" / "weights.pth")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_files(model, tmp_path / "SHA256SUMS")


def test_a_list_that_is_none_is_refused(model, tmp_path):
    (tmp_path / "SHA256SUMS").write_text("<html>\n")
    with pytest.raises(ValueError, match="SHA256SUMS is not a list of SHA-256 sums: '<html>'"):
        check_files(model, tmp_path / "SHA256SUMS")
