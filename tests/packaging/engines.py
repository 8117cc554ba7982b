"""``docker build`` and ``docker run`` for tests: Docker itself, or Debian's buildah and podman behind that name.

buildah and podman get along without a daemon, and with what a machine of tests may have: root, but neither all
capabilities nor a network. In place of Docker Hub's ``python:X.Y-bookworm`` they build on a minimal system by
debootstrap, with g++. Python and its packages are this machine's, on read-only mounts, ours left out; pip installs
nothing else. So the download of what requirements.txt pins is Docker's to test.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mamba.packaging.build_context import _python_image

PROGRAMS = ("buildah", "podman", "crun", "debootstrap", "unshare", "mountpoint")
# Mounts are made in a namespace of their own, so they end with the command, however it ends. crun takes cgroups of the
# first or the second version, not both.
SCRIPT = """#!/bin/sh
verb=$1
shift
case $verb in
    build) set -- buildah {storage} bud --isolation=chroot --layers --pull-never {volumes} "$@" ;;
    run) set -- podman {storage} --cgroup-manager=cgroupfs run --pull=never --read-only-tmpfs=false {limits} \\
        {volumes} "$@" ;;
    info) exit 0 ;;
    --version) exec buildah --version ;;
    *) echo "no docker $verb here" >&2; exit 2 ;;
esac
exec unshare --mount sh -c \\
    'both=/sys/fs/cgroup/unified; if mountpoint -q $both; then umount $both; fi; exec "$@"' sh "$@"
"""
BASE = """FROM localhost/debian
RUN set -e; echo /opt/python/lib > /etc/ld.so.conf.d/python.conf; ldconfig; \\
    /opt/python/bin/{python} -m venv /usr/local; cd /usr/local/lib/{python}/site-packages; \\
    for entry in /opt/packages/*; do case "$entry" in \\
        */nnunetv2_mamba*) ;; \\
        *) [ -e "${{entry##*/}}" ] || ln -s "$entry" . ;; \\
    esac; done
ENV PIP_NO_INDEX=1 PIP_NO_DEPS=1
"""


@dataclass(frozen=True)
class Engine:
    """Attributes:
    name: ``docker`` or ``podman``.
    path: to look for ``docker`` in.
    """

    name: str
    path: str

    def run(self, *command: object) -> subprocess.CompletedProcess:
        """A command that finds this engine as ``docker``; its output and errors as text."""
        return subprocess.run(
            [str(word) for word in command],
            env={**os.environ, "PATH": self.path},
            capture_output=True,
            text=True,
            check=False,
        )


def why_no_docker() -> str | None:
    if sys.platform != "linux":
        return "needs Linux"
    if "CI" in os.environ:
        return None
    try:
        running = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        running = False
    return None if running else "no Docker runs here"


def why_no_podman() -> str | None:
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian's packages have the same names)"
    if Path(sys.base_prefix) == Path("/usr"):
        return "needs a Python in a folder of its own, to be mounted"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        return "this kernel allows no namespaces"
    return None if _mirror() else "apt names no mirror of Debian"


def _mirror() -> tuple[str, str] | None:
    """Suite and address of the archive that apt installs this system's packages from."""
    suite = subprocess.run(
        ["sh", "-c", '. /etc/os-release; echo "$ID $VERSION_CODENAME"'], capture_output=True, text=True, check=False
    ).stdout.split()
    command = ["apt-get", "indextargets", "--format", "$(RELEASE) $(SITE)", "Created-By: Packages"]
    if suite[:1] != ["debian"] or not shutil.which("apt-get"):
        return None
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return next((tuple(line.split()) for line in lines if line.split()[0] == suite[1]), None)


@contextmanager
def docker(folder: Path) -> Iterator[Engine]:
    yield Engine("docker", os.environ["PATH"])


@contextmanager
def podman(folder: Path) -> Iterator[Engine]:
    """buildah and podman with images and containers in ``folder``, which is removed at the end."""
    import resource  # not on Windows

    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    storage = ["--root", folder / "root", "--runroot", folder / "run", "--storage-driver", "overlay"]
    mounted = {"/opt/python": sys.base_prefix, "/opt/packages": sysconfig.get_paths()["purelib"]}
    volumes = [word for target, source in mounted.items() for word in ("--volume", f"{source}:{target}:ro")]
    # podman would raise limits beyond those of this process, for which it may lack the capability
    files = min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    limits = ["--ulimit", f"nofile={files}:{files}", "--ulimit", "nproc=1024:1024"]
    words = {"storage": storage, "volumes": volumes, "limits": limits}
    try:
        script = folder / "bin" / "docker"
        script.parent.mkdir(parents=True)
        script.write_text(SCRIPT.format(**{name: shlex.join(map(str, value)) for name, value in words.items()}))
        script.chmod(0o755)
        engine = Engine("podman", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
        _import_debian(folder, storage)
        (folder / "base").mkdir()
        (folder / "base" / "Dockerfile").write_text(BASE.format(python=python))
        name = (
            f"docker.io/library/python:{_python_image(*sys.version_info[:2], sys.version_info.releaselevel)}-bookworm"
        )
        done = engine.run("docker", "build", "--tag", name, folder / "base")
        assert done.returncode == 0, done.stdout + done.stderr
        yield engine
    finally:
        ended = ["unshare", "--mount", "podman", *storage, "rm", "--all", "--force", "--time", "0"]
        subprocess.run(ended, capture_output=True, check=False)
        shutil.rmtree(folder)


def _import_debian(folder: Path, storage: list) -> None:
    suite, site = _mirror()
    system, archive = folder / "system", folder / "system.tar"
    for command in (
        ["debootstrap", "--variant=minbase", "--include=g++", suite, system, site],
        ["tar", "--create", "--exclude=./var/cache/apt/archives/*", "--file", archive, "--directory", system, "."],
        ["podman", *storage, "import", archive, "localhost/debian"],
    ):
        done = subprocess.run(["unshare", "--mount", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(system)
    archive.unlink()


ENGINES = {"docker": (docker, why_no_docker), "podman": (podman, why_no_podman)}
