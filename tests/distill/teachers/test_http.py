"""Endpoints on loopback that answer batches: right, late, of another size, and gone half-way."""

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from edgekd.distill.teacher_config import Endpoint
from edgekd.distill.teachers.opening import opened
from edgekd.errors import UsageError
from tests.distill.teachers.small import ask, model_inputs, refusal, samples_of

Respond = Callable[[BaseHTTPRequestHandler, np.ndarray], None]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@contextmanager
def serving(respond: Respond) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            batch = np.load(io.BytesIO(self.rfile.read(int(self.headers["Content-Length"]))), allow_pickle=False)
            respond(self, batch)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/teacher"
        finally:
            server.shutdown()


def endpoint(url: str, **settings: object) -> Endpoint:
    return Endpoint(**{"kind": "http", "url": url, "version": "1", "timeout": 20.0, **settings})  # type: ignore[arg-type]


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def send(handler: BaseHTTPRequestHandler, content: bytes, length: int | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


def firsts(batch: np.ndarray) -> np.ndarray:
    return batch.reshape(len(batch), -1)[:, :3].astype(np.float64)


def test_it_answers_every_batch() -> None:
    samples = samples_of()
    with serving(lambda handler, batch: send(handler, npy(firsts(batch)))) as url:
        with opened(endpoint(url), samples) as (answer, params):
            assert params is None
            for start in (0, 10, 20):
                batch = samples.batch("test", 0, start, start + 10)
                np.testing.assert_allclose(answer(batch), firsts(batch.inputs), rtol=1e-6)


def test_classes_in_another_order_are_mapped() -> None:
    with serving(lambda handler, batch: send(handler, npy(firsts(batch)))) as url:
        found = ask(endpoint(url, labels=("bright", "dark", "grey")))
    np.testing.assert_allclose(found, firsts(model_inputs())[:, [1, 2, 0]], rtol=1e-6)


def test_arrays_in_column_order_are_read_alike() -> None:
    with serving(lambda handler, batch: send(handler, npy(np.asfortranarray(firsts(batch))))) as url:
        np.testing.assert_allclose(ask(endpoint(url)), firsts(model_inputs()), rtol=1e-6)


def test_a_late_answer_is_not_waited_for() -> None:
    with serving(lambda handler, batch: time.sleep(5)) as url:
        message = refusal(endpoint(url, timeout=0.5))
    assert message == f"teacher: {url}: no answer to test samples 0 to 9 within 0.5 seconds; raise 'timeout'"


def test_an_answer_that_trickles_is_late_too() -> None:
    def trickle(handler: BaseHTTPRequestHandler, batch: np.ndarray) -> None:
        send(handler, b"", 1000)
        for _ in range(40):
            time.sleep(0.1)
            handler.wfile.write(b".")
            handler.wfile.flush()

    with serving(trickle) as url:
        before = time.monotonic()
        assert "within 0.5 seconds" in refusal(endpoint(url, timeout=0.5))
        assert time.monotonic() - before < 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda batch: npy(firsts(batch)[1:]), "of shape (9, 3) to 10 samples"),
        (lambda batch: npy(firsts(batch)[:, :2]), "2 outputs"),
        (lambda batch: npy(firsts(batch))[:-5], "235 bytes of 240"),
        (lambda batch: npy(firsts(batch)) + b"more", "244 bytes of 240"),
        (lambda batch: b"", "no .npy array"),
        (lambda batch: b"<html>not here</html>", "no .npy array"),
        (lambda batch: npy(np.array(["dark"] * 10)), "array of <U4"),
        (lambda batch: b"\0" * 1_000_000, "more than"),
    ],
)
def test_answers_of_another_size_or_kind_are_refused(answer: Callable[[np.ndarray], bytes], words: str) -> None:
    with serving(lambda handler, batch: send(handler, answer(batch))) as url:
        assert words in refusal(endpoint(url))


def test_an_answer_that_ends_too_early_is_refused() -> None:
    def cut(handler: BaseHTTPRequestHandler, batch: np.ndarray) -> None:
        content = npy(firsts(batch))
        send(handler, content[:150], len(content))

    with serving(cut) as url:
        assert "bytes" in refusal(endpoint(url))


def test_an_error_of_the_endpoint_is_quoted() -> None:
    with serving(lambda handler, batch: handler.send_error(503, "model is loading")) as url:
        assert f"{url} answers 503 model is loading to test samples 0 to 9" in refusal(endpoint(url))


def test_one_that_is_gone_half_way_is_told_with_the_samples() -> None:
    batches: list[int] = []

    def dies(handler: BaseHTTPRequestHandler, batch: np.ndarray) -> None:
        batches.append(len(batch))
        if len(batches) == 2:
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            send(handler, npy(firsts(batch)))

    samples = samples_of()
    with serving(dies) as url, opened(endpoint(url), samples) as (answer, _):
        answer(samples.batch("test", 0, 0, 10))
        with pytest.raises(UsageError, match="fails on test samples 10 to 19"):
            answer(samples.batch("test", 0, 10, 20))


def test_one_that_nobody_serves_is_refused() -> None:
    with serving(lambda handler, batch: None) as url:
        pass
    assert f"{url} fails on test samples 0 to 9" in refusal(endpoint(url))
