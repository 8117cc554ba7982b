"""The trial of a server, with servers that are as they should be and others."""

import re
import sys

import pytest
from test_invoke_server import free_port

from nnunetv2_mamba.packaging import invoke_trial

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="containers are Linux")
GOOD = """
import sys
from nnunetv2_mamba.packaging.invoke_server import serve
from nnunetv2_mamba.processes import signals_raise
with signals_raise():
    serve(lambda: lambda came, is_wanted: {failures}, int(sys.argv[1]))
"""
OTHER = """
import http.server, signal, sys
{before}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response({health})
        self.end_headers()
    def do_POST(self):
        {invoke}
    def log_message(self, *_): pass
http.server.HTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
"""
CREATED = "self.send_response(201); self.end_headers()"


@pytest.fixture(autouse=True)
def little_time(monkeypatch):
    monkeypatch.setattr(invoke_trial, "START_TIME", 10.0)


def run(program):
    port = free_port()
    return invoke_trial.main([sys.executable, "-c", program, str(port)], port=port, pause=0.05)


def test_a_server_that_is_as_it_should_be(capfd):
    assert run(GOOD.format(failures=[])) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "invoke: 201"


def test_no_command(capsys):
    assert invoke_trial.main([]) == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (GOOD.format(failures=["a: FAILED: b is missing"]), "/invoke was answered 500, and not 201: a: FAILED: b is"),
        ("raise SystemExit(3)", "the server ended with exit code 3 before its health was good"),
        (OTHER.format(before="", health=302, invoke=CREATED), r"/health was redirected \(302\)"),
        (OTHER.format(before="", health=200, invoke="sys.exit()"), "/invoke was not answered: RemoteDisconnected"),
        (OTHER.format(before="", health=200, invoke="self.send_response(200); self.end_headers()"), "answered 200,"),
    ],
)
def test_servers_that_are_not(program, message, capfd):
    assert run(program) == 1
    assert re.search(f"^invoke: FAILED: .*{message}", capfd.readouterr().err, re.MULTILINE)


def test_a_health_that_stays_bad(monkeypatch, capfd):
    monkeypatch.setattr(invoke_trial, "START_TIME", 1.0)
    assert run(OTHER.format(before="", health=404, invoke=CREATED)) == 1
    assert "/health was not 200 within 1 seconds" in capfd.readouterr().err


def test_a_server_that_does_not_end(monkeypatch, capfd):
    monkeypatch.setattr(invoke_trial, "GRACE_TIME", 0.2)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    assert run(OTHER.format(before=ignore, health=200, invoke=CREATED)) == 1
    assert "SIGTERM did not end the server within 0.2 seconds" in capfd.readouterr().err
