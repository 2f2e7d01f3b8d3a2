"""The tables that name a teacher in a recipe, beside the torch module that edgekd trains or loads itself.

    [teacher]
    kind = "onnx"
    file = "teacher.onnx"
    labels = ["cat", "dog"]

Nothing here loads torch; `edgekd.distill.teachers` opens them.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import Discriminator, Field, StringConstraints, Tag
from pydantic.dataclasses import dataclass

from edgekd.config import STRICT
from edgekd.fields import Arguments, FunctionReference, Positive, Reference

Written = Literal["logits", "probabilities"]
"""What the numbers of a teacher are. The numbers of a regression count as logits."""

Label = Annotated[str, StringConstraints(min_length=1)]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class _Answering:
    """A model that answers."""

    labels: tuple[Label, ...] = ()
    """Class names in the order of its outputs; without them those in the file, else the order of the data's classes."""
    outputs: Written | None = None
    """What its numbers are; without it what the file says, else logits."""
    preprocess: FunctionReference | None = None
    """A function from a batch of raw samples to what the model takes: one array, or a dict of arrays by input name.
    Raw samples are an uint8 array (n, height, width, channels) of images, a float32 array (n, samples) of recordings in
    [-1, 1], or a list of n sentences, each in the view that the student sees. Without it the model gets the inputs of
    the student; for TFLite and Keras, images are laid out with their channels last.
    """

    def __post_init__(self) -> None:
        if twice := next((label for label in self.labels if self.labels.count(label) > 1), None):
            raise ValueError(f"two labels are called '{twice}'")


@dataclass(frozen=True, config=STRICT, kw_only=True)
class TorchModule(_Answering):
    """A trained torch module: `function(input_shape, outputs, **args)`, and its weights."""

    kind: Literal["torch"] = "torch"
    model: Reference
    args: Arguments = dataclasses.field(default_factory=dict)
    weights: Path


@dataclass(frozen=True, config=STRICT, kw_only=True)
class TransformersFolder(_Answering):
    """A classifier that `save_pretrained` of `transformers` wrote: config.json, safetensors, its own preprocessing."""

    kind: Literal["transformers"]
    folder: Path


@dataclass(frozen=True, config=STRICT, kw_only=True)
class OnnxFile(_Answering):
    kind: Literal["onnx"]
    file: Path


@dataclass(frozen=True, config=STRICT, kw_only=True)
class TFLiteFile(_Answering):
    kind: Literal["tflite"]
    file: Path


@dataclass(frozen=True, config=STRICT, kw_only=True)
class KerasModel(_Answering):
    kind: Literal["keras"]
    path: Path
    """A `.keras` file or the folder of a SavedModel."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class _Elsewhere(_Answering):
    version: Annotated[str, StringConstraints(min_length=1)]
    """Stands for what answers, which edgekd cannot look into: another version, other answers."""
    timeout: Positive = dataclasses.field(default=60.0, compare=False)
    """Seconds that the answer to one batch may take. It does not change the answers: the cache stays good."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Command(_Elsewhere):
    """A program that reads batches from its standard input and writes answers to its output, as told in
    `edgekd.distill.teachers.command`. It is started once, without a shell, in the current folder.
    """

    kind: Literal["command"]
    argv: Annotated[tuple[str | Path, ...], Field(min_length=1)]
    """Program and arguments. One that begins with ./ or ../ is a path from the recipe, and counts by its content."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Endpoint(_Elsewhere):
    """An address that takes each batch by POST as .npy bytes and answers with the .npy bytes of its outputs."""

    kind: Literal["http"]
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]\S*$")]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class StoredOutputs:
    """Answers given before; see `edgekd.distill.teachers.stored` for what the file holds."""

    kind: Literal["stored"]
    file: Path
    labels: tuple[Label, ...] = ()
    """Class names in the order of the stored outputs; without them those in the file, else the order of the data's."""


Model = TorchModule | TransformersFolder | OnnxFile | TFLiteFile | KerasModel | Command | Endpoint | StoredOutputs
"""What answers by itself."""


def kind_of(table: Any) -> str | None:
    """The tag of a table or of what was made of it. A table without a kind is a torch module."""
    return table.get("kind", "torch") if isinstance(table, dict) else getattr(table, "kind", "torch")


Member = Annotated[
    Annotated[TorchModule, Tag("torch")]
    | Annotated[TransformersFolder, Tag("transformers")]
    | Annotated[OnnxFile, Tag("onnx")]
    | Annotated[TFLiteFile, Tag("tflite")]
    | Annotated[KerasModel, Tag("keras")]
    | Annotated[Command, Tag("command")]
    | Annotated[Endpoint, Tag("http")]
    | Annotated[StoredOutputs, Tag("stored")],
    Discriminator(kind_of),
]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Ensemble:
    """Several teachers that answer as one, each after its own preprocessing."""

    kind: Literal["ensemble"]
    members: Annotated[tuple[Member, ...], Field(min_length=1)]
    weights: tuple[Positive, ...] = ()
    """One for each member; without them all count alike."""
    mean: Written = "probabilities"
    """What is averaged. The numbers of a regression are averaged as they are."""

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.members):
            raise ValueError(f"{len(self.weights)} weights for {len(self.members)} members; give one each, or none")


PATHS = ("weights", "folder", "file", "path")
"""The keys of [teacher] that hold a path."""


class _Teacher(Protocol):
    @property
    def kind(self) -> str: ...


T = TypeVar("T")


def members_of(teacher: _Teacher) -> tuple[Any, ...]:
    """The members of an ensemble, or the teacher itself."""
    return teacher.members if isinstance(teacher, Ensemble) else (teacher,)


def can_be_tapped(teacher: _Teacher) -> bool:
    """Whether its layers can be looked into. All but a torch module of its own give their outputs only."""
    return teacher.kind == "torch"


def takes_raw(teacher: _Teacher) -> bool:
    """Whether it, or a member, may look at raw samples: then its answers depend on how these are made, too."""
    return any(
        isinstance(member, TransformersFolder | StoredOutputs) or getattr(member, "preprocess", None) is not None
        for member in members_of(teacher)
    )


def modules_of(teacher: _Teacher) -> list[str]:
    """The references to the user's functions, and to models, that it is made of."""
    names = [getattr(member, key, None) for member in members_of(teacher) for key in ("model", "preprocess")]
    return [name for name in names if name is not None]


def located(teacher: T, absolute: Callable[[Path], Path]) -> T:
    """The same teacher with its paths made absolute."""
    changes: dict[str, Any] = {}
    for name, value in _values(teacher):
        if isinstance(value, Path):
            changes[name] = absolute(value)
        elif name == "argv":
            changes[name] = tuple(absolute(Path(part)) if _is_beside(part) else part for part in value)
        elif name == "members":
            changes[name] = tuple(located(member, absolute) for member in value)
    return dataclasses.replace(teacher, **changes)  # type: ignore[type-var]


def _values(table: Any) -> Iterator[tuple[str, Any]]:
    return ((field.name, getattr(table, field.name)) for field in dataclasses.fields(table))


def _is_beside(argument: str | Path) -> bool:
    return isinstance(argument, str) and argument.startswith(("./", "../"))
