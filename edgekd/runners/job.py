"""What the agent is told to do, as text."""

from dataclasses import dataclass

from edgekd.errors import DeviceError
from edgekd.runners.streams import printable

FIRST_LINE = "edgekd-job 1"
JOB_LIMIT = 1 << 16
PLAIN_KEYS = ("threads", "warmup_runs", "warmup_seconds", "runs", "seconds", "blocks", "idle_seconds", "sample_ms")


@dataclass(frozen=True)
class JobModel:
    """A model of a job, by its names on the device, from the job's folder on.

    runtime: ai-edge-litert, onnxruntime, openvino or tflite-runtime.
    library: its file. inputs: a file of raw bytes for each
    of the model's inputs, N samples one behind the other; none: generated. outputs: files that the agent writes.
    """

    file: str
    runtime: str
    library: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One run of the agent: one model, or two in turns.

    It goes on until it has both `runs` and `seconds`. blocks: of two models' turns. samples: sensors, by their path,
    that are read every sample_ms. swapped: the second model is loaded first and begins.
    """

    models: tuple[JobModel, ...] = ()
    threads: int = 1
    warmup_runs: int = 1
    warmup_seconds: float = 0.5
    runs: int = 64
    seconds: float = 0.0
    blocks: int | None = None
    idle_seconds: float = 0.0
    sample_ms: int | None = None
    samples: tuple[str, ...] = ()
    lock: str | None = None
    swapped: bool = False

    def text(self) -> str:
        """The job file. Raises DeviceError for a value that does not fit on a line, or a job of more than 64 KiB."""
        lines = [FIRST_LINE]

        def add(key: str, *values: str | float | None) -> None:
            for value in values:
                text = _decimal(value) if isinstance(value, float) else str(value)
                if not text or not text.isprintable():
                    raise DeviceError(f"job: '{key}' cannot be {printable(repr(value))}; it must be one line of text")
                if value is not None:
                    lines.append(f"{key} {text}")

        for key in PLAIN_KEYS:
            add(key, getattr(self, key))
        add("sample", *self.samples)
        add("lock", self.lock)
        add("swapped", "1" if self.swapped else None)
        for model in self.models:
            add("model", model.file)
            add("runtime", model.runtime)
            add("library", model.library)
            add("input", *model.inputs)
            add("output", *model.outputs)
        text = "\n".join(lines) + "\n"
        if len(text.encode()) > JOB_LIMIT:
            raise DeviceError(f"job: {len(text.encode())} bytes are more than the agent's {JOB_LIMIT}; name less in it")
        return text


def _decimal(seconds: float) -> str:
    return f"{seconds:.9f}".rstrip("0").rstrip(".")
