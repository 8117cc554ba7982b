"""The server by itself, with work that tests say, as clients see it."""

import http.client
import queue
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from nnunetv2_mamba.packaging.invoke_server import serve

SOON = 30  # seconds, after which a test has failed


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def call(port, method, path, body=None):
    """Status and text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SOON)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read().decode().strip()
    finally:
        connection.close()


def until(condition):
    latest = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.005)


def health(port):
    with suppress(OSError):
        return call(port, "GET", "/health")[0]


class Called:
    """A call in a thread of its own."""

    def __init__(self, *arguments):
        self._answers = queue.Queue()
        threading.Thread(target=lambda: self._answers.put(call(*arguments)), daemon=True).start()

    @property
    def answer(self):
        return self._answers.get(timeout=SOON)

    @property
    def waits(self):
        return self._answers.empty()


class Signal(BaseException):
    """What a signal raises in the thread that works."""


@contextmanager
def serving(load):
    """A server in a thread, ended as by a signal where it has not ended before."""
    port, ended = free_port(), queue.Queue()
    ending = threading.Event()

    def loaded():
        work = load()

        def work_or_end(*arguments):
            if ending.is_set():
                raise Signal
            return work(*arguments)

        return work_or_end

    def run():
        try:
            serve(loaded, port)
        except BaseException as error:
            ended.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield port, ended
    finally:
        ending.set()
        with suppress(OSError):
            call(port, "POST", "/invoke")
        thread.join(SOON)
    assert not thread.is_alive()


@pytest.fixture
def steps():
    """Work that tells when it begins and does what it is given: failures, or what to raise."""

    class Steps:
        begun = queue.Queue()
        given = queue.Queue()

        def __call__(self, came, is_wanted):
            self.begun.put(is_wanted)
            step = self.given.get(timeout=SOON)
            if isinstance(step, BaseException):
                raise step
            return step

    return Steps()


@pytest.fixture
def server(steps):
    with serving(lambda: steps) as (port, ended):
        until(lambda: health(port) == 200)
        yield port, ended


def test_health_is_good_when_the_model_is_loaded():
    loaded = threading.Event()

    def load():
        assert loaded.wait(SOON)
        return lambda came, is_wanted: []

    with serving(load) as (port, _):
        until(lambda: health(port))
        assert call(port, "GET", "/health") == (503, "the model is being loaded")
        assert call(port, "POST", "/invoke") == (503, "the model is being loaded: wait until GET /health is 200")
        loaded.set()
        until(lambda: health(port) == 200)
        assert call(port, "POST", "/invoke")[0] == 201


def test_a_model_that_cannot_be_loaded_ends_the_server():
    def load():
        raise ValueError("no model")

    with serving(load) as (port, ended):
        assert str(ended.get(timeout=SOON)) == "no model"
        assert health(port) is None


def test_a_port_that_is_taken(server):
    with pytest.raises(OSError, match=f"^--port {server[0]} cannot be served: .*; end what has it$"):
        serve(lambda: None, server[0])


def test_health_is_answered_during_work(server, steps):
    port, _ = server
    called = Called(port, "POST", "/invoke")
    steps.begun.get(timeout=SOON)
    assert call(port, "GET", "/health") == (200, "ready")
    assert called.waits
    steps.given.put([])
    assert called.answer == (201, "Created")


def test_requests_at_once_are_worked_on_one_after_another(server, steps):
    port, _ = server
    calls = [Called(port, "POST", "/invoke") for _ in range(3)]
    for number in range(3):
        steps.begun.get(timeout=SOON)
        assert call(port, "GET", "/health")[0] == 200
        assert steps.begun.empty()  # none of the others has begun
        steps.given.put([f"failure {number}"] if number == 1 else [])
    assert sorted(each.answer for each in calls) == [(201, "Created"), (201, "Created"), (500, "failure 1")]


def test_failures_are_the_answer_and_the_server_goes_on(server, steps):
    port, _ = server
    for failures, answer in ((["a: FAILED: ä", "b: FAILED"], (500, "a: FAILED: ä\nb: FAILED")), ([], (201, "Created"))):
        steps.given.put(failures)
        assert call(port, "POST", "/invoke") == answer


@contextmanager
def impatient(port):
    """A client that sends its request and goes."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"POST /invoke HTTP/1.1\r\nHost: localhost\r\n\r\n")
        yield


def test_a_client_that_goes_is_noticed(server, steps, capfd):
    port, _ = server
    with impatient(port):
        is_wanted = steps.begun.get(timeout=SOON)
        assert is_wanted()
        with impatient(port):  # waits for its turn
            time.sleep(0.2)
    until(lambda: not is_wanted())
    steps.given.put([])
    steps.given.put([])
    assert call(port, "POST", "/invoke")[0] == 201
    assert steps.begun.qsize() == 1  # the last one; nothing was done for the second
    said = capfd.readouterr().err
    assert said.count("ABANDONED") == 1
    assert "Traceback" not in said


def test_a_signal_answers_all_that_wait(server, steps):
    port, ended = server
    calls = [Called(port, "POST", "/invoke") for _ in range(2)]
    steps.begun.get(timeout=SOON)
    time.sleep(0.2)  # until the other is in the queue
    steps.given.put(Signal())
    assert [each.answer for each in calls] == [(503, "the server was asked to end")] * 2
    assert isinstance(ended.get(timeout=SOON), Signal)
    assert health(port) is None


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/health/", 404),
        ("GET", "/invoke", 405),
        ("POST", "/health", 405),
        ("PUT", "/invoke", 501),
        ("GET", "/health?all", 200),
    ],
)
def test_paths_and_methods(server, method, path, status):
    assert call(server[0], method, path)[0] == status


def test_a_body_is_no_matter(server, steps):
    for body in (b"{}", b"x" * 300_000):
        steps.given.put([])
        assert call(server[0], "POST", "/invoke", body)[0] == 201
