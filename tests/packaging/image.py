"""Docker's `build` and `run` for tests, as far as our Dockerfiles go, on a machine without Docker.

The root is this machine's, under an overlay: what an image or a container writes stays in a folder of the test. FROM's
Python is this one in a virtual environment that sees the packages installed here, but not ours. All commands run in the
overlay with chroot, without a network; a container's as another user, with nothing of this environment.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

VENV = "/opt/test-venv"
PATH = f"{VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def why_not() -> str | None:
    """Why images cannot be built here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, for namespaces and mounts"
    if not all(map(shutil.which, ("unshare", "setpriv", "chroot"))):
        return "needs util-linux"
    if any(path.startswith("/tmp/") for path in (sysconfig.get_paths()["purelib"], sys.base_prefix)):
        return "needs a Python outside /tmp, of which an image has its own"
    probe = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False)
    return "this kernel allows no namespaces" if probe.returncode else None


class Image:
    """A build context, built. ``folder`` keeps what differs from this machine's root."""

    def __init__(self, context: Path, folder: Path):
        self._context, self._folder = context, folder
        # what requirements.txt names is here already, and there is no network to look for more
        self._environment = {"PATH": PATH, "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1"}
        self._workdir, self._user = "/", "0:0"
        self.entrypoint: list[str] = []
        self.command: list[str] = []
        self._python()
        for instruction, argument in _instructions((context / "Dockerfile").read_text()):
            getattr(self, f"_{instruction.lower()}")(argument)

    def run(
        self, *command: str, volumes: Mapping[str, tuple[Path, str]], user: str | None = None
    ) -> subprocess.CompletedProcess:
        """``docker run --network none``; volumes are ``{"/input": (folder, "ro")}``."""
        arguments = [*self.entrypoint, *(command or self.command)]
        uid, gid = (user or self._user).split(":")
        drop = f"setpriv --reuid={uid} --regid={gid} --clear-groups --no-new-privs --bounding-set=-all"
        return self._in_root(f"cd {self._workdir}; exec {drop} {shlex.join(arguments)}", volumes, check=False)

    def _python(self) -> None:
        packages = sysconfig.get_paths()["purelib"]
        parents = [path for folder in (packages, sys.base_prefix) for path in Path(folder).parents]
        self._in_root(
            f"""
            chmod o+x {" ".join(map(str, parents))}
            rm -rf {packages}/nnunetv2_mamba*
            python={shlex.quote(os.path.realpath(sys.executable))}
            "$python" -m venv {VENV}
            site=$({VENV}/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
            rm -rf "$site"/setuptools*
            echo {packages} > "$site/here.pth"
            """
        )

    def _from(self, argument: str) -> None:
        version = ".".join(map(str, sys.version_info[:3]))
        assert argument == f"python:{version}-bookworm"

    def _env(self, argument: str) -> None:
        self._environment.update(pair.split("=", 1) for pair in shlex.split(argument))

    def _workdir_set(self, argument: str) -> None:
        self._workdir = argument
        self._in_root(f"mkdir -p {argument}")

    def _copy(self, argument: str) -> None:
        *sources, target = argument.split()
        files = " ".join(f"/context/{source}" for source in sources)
        # as Docker does, the contents of a folder go into the target
        single = len(sources) == 1 and not target.endswith("/")
        contents = single and (self._context / sources[0]).is_dir()
        self._in_root(
            f"mkdir -p {target if contents or not single else Path(target).parent}; "
            f"cp -r {f'{files}/.' if contents else files} {target}",
            {"/context": (self._context, "ro")},
        )

    def _run(self, argument: str) -> None:
        self._in_root(f"cd {self._workdir}; {argument}")

    def _user_set(self, argument: str) -> None:
        self._user = argument

    def _entrypoint(self, argument: str) -> None:
        self.entrypoint = _exec_form(argument)

    def _cmd(self, argument: str) -> None:
        self.command = _exec_form(argument)

    def _in_root(
        self, script: str, volumes: Mapping[str, tuple[Path, str]] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess:
        """Run a script in the image's root, in namespaces of its own for mounts and network."""
        upper, work, root = (self._folder / name for name in ("upper", "work", "root"))
        for folder in (upper, work, root):
            folder.mkdir(parents=True, exist_ok=True)
        mounts = [f"mount -t overlay overlay -o lowerdir=/,upperdir={upper},workdir={work} {root}"]
        mounts += [f"mount --rbind /{name} {root}/{name}" for name in ("proc", "dev")]
        mounts += [f"mount -t tmpfs tmpfs {root}/tmp"]
        for target, (source, mode) in (volumes or {}).items():
            mounts += [f"mkdir -p {root}{target}", f"mount --bind {source} {root}{target}"]
            if mode == "ro":
                mounts += [f"mount -o remount,bind,ro {root}{target}"]
        environment = [f"{name}={value}" for name, value in self._environment.items()]
        inside = shlex.join(["chroot", str(root), "env", "-i", *environment, "bash", "-ec", script])
        result = subprocess.run(
            ["unshare", "--mount", "--net", "bash", "-ec", "\n".join([*mounts, f"exec {inside}"])],
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or result.returncode == 0, f"{script}\n{result.stdout}\n{result.stderr}"
        return result


def _instructions(dockerfile: str) -> Sequence[tuple[str, str]]:
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = [line.split(maxsplit=1) for line in joined.splitlines()]
    names = {"WORKDIR": "workdir_set", "USER": "user_set"}
    return [(names.get(name, name), argument) for name, argument in pairs]


def _exec_form(argument: str) -> list[str]:
    return re.findall(r'"([^"]*)"', argument)


def unpack(tarball: Path, folder: Path) -> None:
    """As grand-challenge unpacks a model."""
    subprocess.run(["tar", "-xzf", tarball, "-C", folder], check=True)
