"""The platform's part in a container of grand-challenge's invoke API: ``python invoke_platform.py COMMAND``.

Starts the command, calls it for the cases in ``/cases``, keeps its results in ``/results`` and its answers in
``/results/answers.json``; then two requests at once, and SIGTERM in the middle of one. Runs in the image, of whose
packages it uses none.
"""

import http.client
import json
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

CASES, RESULTS, INPUT, OUTPUT = Path("/cases"), Path("/results"), Path("/input"), Path("/output")


def call(method: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", 4743, timeout=600)
    connection.request(method, path)
    response = connection.getresponse()
    return response.status, response.read().decode().strip()


def provide(case: Path) -> None:
    for folder in (INPUT, OUTPUT):
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in case.iterdir():
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        copy(path, INPUT / path.name)


def wait_for_health(server: subprocess.Popen) -> None:
    while server.poll() is None:
        with suppress(OSError):
            if call("GET", "/health")[0] == 200:
                return
        time.sleep(0.2)
    raise SystemExit("the server ended by itself")


def main(command: list[str]) -> None:
    server = subprocess.Popen(command, start_new_session=True)
    answers = {}
    wait_for_health(server)
    for case in sorted(CASES.iterdir()):
        provide(case)
        answers[case.name] = call("POST", "/invoke")
        shutil.copytree(OUTPUT, RESULTS / case.name, copy_function=shutil.copyfile)
    provide(CASES / "case_0")
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(call, "POST", "/invoke") for _ in range(2)]
        answers["health during work"] = call("GET", "/health")[0]
        answers["at once"] = [one.result()[0] for one in both]
        provide(CASES / "case_0")
        pool.submit(call, "POST", "/invoke")
        time.sleep(0.5)
        server.send_signal(signal.SIGTERM)
        answers["exit code"] = server.wait(60)
    shutil.copytree(OUTPUT, RESULTS / "ended", copy_function=shutil.copyfile)
    (RESULTS / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1:])
