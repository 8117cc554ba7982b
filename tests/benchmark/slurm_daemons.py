"""SLURM's daemons on this machine, for one test: on the loopback, in a folder of their own, gone with it."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

CONFIGURATION = Path(__file__).with_name("slurm.conf")
ACCOUNTING = Path(__file__).with_name("slurmdbd.conf")
ACCOUNTING_PROGRAMS = ("slurmdbd", "sacctmgr", "mariadbd", "mariadb-install-db", "mariadb")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "setpriv")
_SBIN = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))  # where Debian has daemons


def missing_programs(names: tuple[str, ...] = PROGRAMS) -> list[str]:
    return [name for name in names if shutil.which(name, path=_SBIN) is None]


def wait_for(what: str, condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Not an assertion on time: only so that a test that hangs says where."""
    latest = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > latest:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)


class SlurmDaemons:
    """munged, slurmctld and slurmd. Commands find them by ``environment``.

    Args:
        folder: new; below one that any user may enter.
        more: lines of slurm.conf.
        cpus: of the node, however many this machine has.
    """

    def __init__(self, folder: Path, more: str = "", cpus: int = 4):
        self.folder, self._running = folder, {}
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": _SBIN}
        self.node = socket.gethostname().split(".")[0]
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(32))
        key.chmod(0o600)
        reboot = folder / "reboot"
        reboot.write_text(f"#!/bin/sh\ntouch {folder}/rebooted\n")
        reboot.chmod(0o700)
        ports = ("controller_port", "node_port", "accounting_port", "database_port")
        values = {"host": self.node, "user": getpass.getuser(), "folder": folder}
        values |= zip(ports, free_ports(len(ports)), strict=True)
        for template in (CONFIGURATION, ACCOUNTING):
            text = template.read_text(encoding="utf-8").format(more=more.format(**values), cpus=cpus, **values)
            (folder / template.name).write_text(text)
            (folder / template.name).chmod(0o600)  # slurmdbd insists on it
        self.database_port = values["database_port"]

    def start_munge(self) -> None:
        names = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid"}
        names |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        options = [f"--{option}={self.folder / name}" for option, name in names.items()]
        self.start_daemon("munged", "--foreground", "--force", *options)
        wait_for("munged", (self.folder / "munge.socket").exists)

    def start_node(self, *options: str) -> None:
        self.start_daemon("slurmd", "-D", *options)
        wait_for("the node", lambda: self.node_state() in ("idle", "mixed", "allocated"))

    def start_controller(self) -> None:
        self.start_daemon("slurmctld", "-D")
        wait_for("slurmctld", lambda: self.run("scontrol", "ping", check=False).returncode == 0)

    def start_accounting(self) -> None:
        """MariaDB and slurmdbd, before the controller."""
        data, socket_file = self.folder / "database", self.folder / "database.socket"
        user = f"--user={getpass.getuser()}"
        self.run(
            "mariadb-install-db", "--no-defaults", user, f"--datadir={data}", "--auth-root-authentication-method=normal"
        )
        options = [f"--datadir={data}", f"--socket={socket_file}", f"--port={self.database_port}"]
        options += ["--bind-address=127.0.0.1", f"--pid-file={self.folder}/database.pid", user]
        self.start_daemon("mariadbd", "--no-defaults", *options)
        client = ("mariadb", "--no-defaults", "--user=root", f"--socket={socket_file}", "--execute")
        wait_for("MariaDB", lambda: self.run(*client, "SELECT 1", check=False).returncode == 0)
        self.run(
            *client, "CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'slurm'; GRANT ALL ON slurm.* TO slurm@'127.0.0.1'"
        )
        self.start_daemon("slurmdbd", "-D")
        manage = ("sacctmgr", "--immediate", "add")
        wait_for("slurmdbd", lambda: self.run(*manage, "cluster", "test", check=False).returncode == 0)
        self.run(*manage, "account", "tests", "cluster=test")

    def start_daemon(self, name: str, *arguments: str) -> None:
        # The kernel kills it with this process, if that is killed
        command = ["setpriv", "--pdeathsig", "KILL", name, *arguments]
        with (self.folder / f"{name}.out").open("ab") as output:
            self._running[name] = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def end_daemon(self, name: str, number: str = "SIGKILL") -> None:
        self._running[name].send_signal(signal.Signals[number])
        self._running.pop(name).wait()

    def run(
        self, *command: object, check: bool = True, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess:
        words = [str(word) for word in command]
        result = subprocess.run(words, env=environment or self.environment, capture_output=True, text=True)
        assert not check or result.returncode == 0, f"{words}: {result.stdout}{result.stderr}{self.logs()}"
        return result

    def node_state(self) -> str:
        return self.run("sinfo", "--noheader", "--partition=low", "--format=%T", check=False).stdout.strip()

    def queue(self, states: str = "all") -> dict[str, str]:
        """The states of the jobs that are known, by number."""
        lines = self.run("squeue", "--noheader", f"--states={states}", "--format=%i %T").stdout.splitlines()
        return dict(line.split() for line in lines)

    def update_node(self, **values: str) -> None:
        self.run("scontrol", "update", f"nodename={self.node}", *(f"{name}={value}" for name, value in values.items()))

    def bring_node_back(self) -> None:
        """As an administrator, once it is down and its jobs are off it."""
        wait_for("the node", lambda: self.node_state().startswith("down"))
        wait_for("its jobs", lambda: not self.queue("running,completing"))
        self.update_node(state="resume")

    def kill_jobs(self) -> None:
        """End the processes of all jobs at once, as when a machine loses its power."""
        for pid in self._ours():
            with contextlib.suppress(OSError):
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                job = any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)
                if job or Path(f"/proc/{pid}/comm").read_text().strip() == "slurmstepd":
                    os.kill(pid, signal.SIGKILL)

    def logs(self) -> str:
        files = sorted(self.folder.glob("*.log"))
        return "".join(f"\n== {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)

    def stop(self) -> None:
        """End the daemons, and everything that was started with their configuration."""
        for process in self._running.values():
            process.kill()
            process.wait()
        self._running.clear()
        while left := self._ours():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def _ours(self) -> list[int]:
        """Processes, not waiting to be reaped, whose environment names our configuration: none but ours does."""
        mark = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdecimal() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return [pid for pid in found if pid != os.getpid()]


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
