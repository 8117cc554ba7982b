"""Calls a server of the invoke API as grand-challenge does: ``python -m nnunetv2_mamba.packaging.invoke_trial CMD``.

The platform's program in the container, sagemaker-shim, starts the image's command in a process group of its own, asks
for its health, calls it for each case and ends the group. So does this, for the case that is in the input folder.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import time

from ..processes import end_group, signals_raise, start_group
from .invoke_server import PORT

# Those of sagemaker-shim where the platform sets no others.
START_TIME = 300.0  # seconds until health must be good
HEALTH_TIME = 10.0  # of a call, and between calls
GRACE_TIME = 5.0  # between SIGTERM and SIGKILL
_INVOKE_TIME = 900.0


def main(argv: list[str] | None = None, *, port: int = PORT, pause: float = HEALTH_TIME) -> int:
    """Run the command for one case; exit code 0 where ``/invoke`` was answered 201 and SIGTERM ended the server.

    Args:
        port: that the command serves.
        pause: seconds between calls of ``/health``.
    """
    command = sys.argv[1:] if argv is None else argv
    if not command:
        print("usage: python -m nnunetv2_mamba.packaging.invoke_trial COMMAND...", file=sys.stderr)
        return 2
    with signals_raise():
        server = start_group(command)
        try:
            problem = _wait_for_health(server, port, pause) or _invoke(port)
        finally:
            began = time.monotonic()
            end_group(server, GRACE_TIME)
    if not problem and time.monotonic() - began > GRACE_TIME:
        problem = f"SIGTERM did not end the server within {GRACE_TIME:g} seconds"
    if problem:
        print(f"invoke: FAILED: {problem}", file=sys.stderr, flush=True)
        return 1
    print("invoke: 201", flush=True)
    return 0


def _wait_for_health(server: subprocess.Popen, port: int, pause: float) -> str:
    """Ask until ``/health`` is 200; what is wrong, or nothing."""
    latest = time.monotonic() + START_TIME
    while time.monotonic() < latest:
        if server.poll() is not None:
            return f"the server ended with exit code {server.returncode} before its health was good"
        try:
            status, _ = _call("GET", "/health", port, HEALTH_TIME)
        except (OSError, http.client.HTTPException):
            status = 0
        if status == 200:
            return ""
        if 300 <= status < 400:
            return f"/health was redirected ({status}), which the platform does not follow"
        time.sleep(pause)
    return f"/health was not 200 within {START_TIME:g} seconds"


def _invoke(port: int) -> str:
    try:
        status, text = _call("POST", "/invoke", port, _INVOKE_TIME)
    except (OSError, http.client.HTTPException) as error:
        return f"/invoke was not answered: {error!r}"
    return "" if status == 201 else f"/invoke was answered {status}, and not 201: {text.strip()}"


def _call(method: str, path: str, port: int, timeout: float) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
