"""An address of the user's as a teacher: each batch is a POST of .npy bytes, its answer .npy bytes, (n, outputs)."""

import http.client
import time
import urllib.error
import urllib.request

import numpy as np

from edgekd.distill.teacher_config import Endpoint
from edgekd.distill.teachers.answers import Source, given_to
from edgekd.distill.teachers.npy import from_npy, largest, to_npy
from edgekd.distill.teachers.samples import Batch, Samples
from edgekd.errors import UsageError

HEADERS = {"Content-Type": "application/octet-stream", "Accept": "application/octet-stream"}
PIECE = 1 << 16


def endpoint(config: Endpoint, samples: Samples, name: str) -> Source:
    """Answers that are late, of another size, no array, or cut, and an endpoint that is gone, raise UsageError."""
    given = given_to(config.preprocess)

    def numbers(batch: Batch) -> np.ndarray:
        message, most = to_npy(np.asarray(given(batch))), largest(len(batch), len(samples.labels))
        request = urllib.request.Request(config.url, message, HEADERS, method="POST")
        deadline = time.monotonic() + config.timeout
        try:
            with urllib.request.urlopen(request, timeout=config.timeout) as response:
                return from_npy(_read(response, most, deadline, name), name)
        except TimeoutError:
            late = f"no answer to {batch} within {config.timeout:g} seconds; raise 'timeout'"
            raise UsageError(f"{name}: {config.url}: {late}") from None
        except urllib.error.HTTPError as error:
            raise UsageError(f"{name}: {config.url} answers {error.code} {error.reason} to {batch}") from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                reason = f"no connection within {config.timeout:g} seconds"
            raise UsageError(f"{name}: {config.url} fails on {batch}: {reason}") from error

    return Source(numbers, name, config.labels, config.outputs)


def _read(response: http.client.HTTPResponse, most: int, deadline: float, name: str) -> bytes:
    """The body. Raises TimeoutError at the deadline, however little is missing."""
    announced = int(response.headers.get("Content-Length") or most)
    content = bytearray()
    while len(content) < announced and (piece := response.read1(PIECE)):
        content += piece
        if len(content) > most:
            raise UsageError(f"{name}: its answer has more than {most} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(content)
