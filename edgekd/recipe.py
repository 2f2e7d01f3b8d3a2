"""What to build: the user's TOML file as frozen dataclasses.

Every field of a recipe is declared here, with its unit, its range and its default.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, StringConstraints, Tag
from pydantic.dataclasses import dataclass

from edgekd.config import STRICT, merged, nearest, read_document, read_text, validate
from edgekd.distill import teacher_config
from edgekd.distill.config import (
    BalanceTable,
    LossTable,
    ObjectiveConfig,
    Outputs,
    check_outputs,
    check_weights,
    short_form,
)
from edgekd.distill.teacher_config import kind_of, located
from edgekd.errors import UsageError
from edgekd.fields import (
    Arguments,
    Between,
    Count,
    FunctionReference,
    NotNegative,
    PartialShare,
    Positive,
    Reference,
    Share,
)
from edgekd.resources import BUILT_IN_RECIPES

FILE_NAME = "edgekd.toml"
DEFAULT = "digits"
BASE = "base"
"""What the recipe as it is written is called among the rungs of its ladder."""
FOLDER_MODEL = "edgekd.models.transformers:classifier"
"""What builds a student that is given as a folder."""
TEACHER_PATHS = tuple(f"teacher.{key}" for key in teacher_config.PATHS)

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Points = Annotated[float, Field(ge=0, le=100)]


@dataclass(frozen=True, config=STRICT)
class ImageAugment:
    """Random views of a training image, drawn once from the seed and kept."""

    views: Count = 1
    """Versions of each sample; the first is the sample itself."""
    shift: NotNegative = 0.0
    """Largest shift in pixels, each direction; a fraction interpolates."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation, degrees, each direction."""
    scale: PartialShare = 0.0
    """Largest relative change of size."""
    noise: NotNegative = 0.0
    """Standard deviation of added noise, in pixel values of 0 to 255."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class _Task:
    """What every task says. Its kind is its input and what comes out: `image-classification`, `text-regression`."""

    kind: str
    source: FunctionReference
    data: Path | None = None
    args: Arguments = dataclasses.field(default_factory=dict)
    labelled: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training labels that are kept, drawn from the seed in the proportions of the classes; the other
    samples stay as unlabelled ones, which a teacher answers for."""
    validation: PartialShare = 0.0
    """Share of the labelled training samples that is held out, drawn likewise, where the source gives no validation
    split of its own."""

    @property
    def outputs(self) -> Outputs:
        """What comes out of a model for this task."""
        return cast(Outputs, self.kind.partition("-")[2])


@dataclass(frozen=True, config=STRICT, kw_only=True)
class ImageTask(_Task):
    """Images. A pixel p of 0 to 255 becomes the number (p - mean) / std.

    One whole-number mean and one std serve all channels: then the normalisation is exactly the scale and the zero
    point of the int8 input, the exported model takes raw pixels, and padding stays right.
    """

    kind: Literal["image-classification", "image-multi-label", "image-regression"]
    mean: Annotated[int, Field(ge=0, le=255)] = 128
    std: Positive = 64.0
    augment: ImageAugment = dataclasses.field(default_factory=ImageAugment)


@dataclass(frozen=True, config=STRICT)
class AudioAugment:
    """Random views of a training recording, drawn once from the seed and kept."""

    views: Count = 1
    """Versions of each sample; the first is the sample itself."""
    shift: NotNegative = 0.0
    """Largest shift in time, seconds, each direction."""
    speed: PartialShare = 0.0
    """Largest relative change of speed (resampled: tempo and pitch together)."""
    gain: NotNegative = 0.0
    """Largest change of level, dB, each direction."""
    noise: Share = 0.0
    """Largest standard deviation of added white noise, as a share of full scale."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class AudioTask(_Task):
    """Recordings as log-mel features; lengths are in samples, frequencies in Hz."""

    kind: Literal["audio-classification", "audio-multi-label", "audio-regression"]
    sample_rate: Count = 16000
    clip_seconds: Positive = 1.0
    win_length: Count = 512
    hop_length: Count = 320
    n_fft: Count = 512
    n_mels: Count = 40
    f_min: NotNegative = 20.0
    f_max: Positive = 8000.0
    augment: AudioAugment = dataclasses.field(default_factory=AudioAugment)

    def __post_init__(self) -> None:
        if self.f_max > self.sample_rate / 2:
            raise ValueError(f"task.f_max of {self.f_max:g} Hz is above half the sample rate of {self.sample_rate} Hz")
        if self.f_min >= self.f_max:
            raise ValueError(f"task.f_min of {self.f_min:g} Hz is not below f_max of {self.f_max:g} Hz")
        if self.n_fft < self.win_length:
            raise ValueError(f"task.n_fft of {self.n_fft} is shorter than win_length of {self.win_length}")
        if round(self.clip_seconds * self.sample_rate) < self.win_length:
            raise ValueError(f"task.clip_seconds of {self.clip_seconds:g} is shorter than one window")


@dataclass(frozen=True, config=STRICT)
class TextAugment:
    """Random views of a training sentence, drawn once from the seed and kept."""

    views: Count = 1
    """Versions of each sample; the first is the sample itself."""
    drop: Share = 0.0
    """Probability that a word becomes an unknown one."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class TextTask(_Task):
    """Texts as token ids."""

    kind: Literal["text-classification", "text-multi-label", "text-regression"]
    length: Count = 32
    """Tokens of a sample: a longer sentence is cut, a shorter one padded."""
    vocabulary: Annotated[int, Field(ge=3)] | None = None
    """Build a vocabulary of this many entries: padding, the unknown word, the most frequent training words."""
    tokenizer: Path | None = None
    """Or use this `tokenizer.json` of Hugging Face's tokenizers."""
    augment: TextAugment = dataclasses.field(default_factory=TextAugment)

    def __post_init__(self) -> None:
        if (self.vocabulary is None) == (self.tokenizer is None):
            raise ValueError("task: give either 'vocabulary' (words counted in the training data) or 'tokenizer'")


Task = Annotated[ImageTask | AudioTask | TextTask, Field(discriminator="kind")]


@dataclass(frozen=True, config=STRICT)
class Training:
    """How a model is trained. An epoch sees every sample once, in one of its views."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Samples of a batch, of all processes together. Batch normalisation cannot be trained on single samples."""
    learning_rate: Positive = 3e-3
    """The largest that the schedule comes to."""
    weight_decay: NotNegative = 1e-2
    """Of weights alone: not of biases, normalisation, or learned quantizer ranges."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: PartialShare | None = None
    """Of 'sgd'; 0.9 unless given."""
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    warmup: PartialShare | None = None
    """Of 'cosine': the share of the steps in which the learning rate rises to its largest; 0 unless given."""
    gradient_accumulation: Count = 1
    """Batches whose gradients make one step, so a step sees this times `batch_size` samples."""
    max_grad_norm: Positive | None = None
    """Longer gradients are scaled down to this norm."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """What the models compute in while they train; weights are kept in fp32. fp16 needs a GPU."""
    ema: Between | None = None
    """Keep the exponential moving average of the weights, which decays by this factor at each step."""
    early_stopping: Count | None = None
    """Stop after this many epochs without a smaller validation loss, and keep the weights that had the smallest."""
    checkpoint_every: Count = 500
    """Steps between checkpoints, from which a build that was killed goes on."""

    def __post_init__(self) -> None:
        if self.momentum is not None and self.optimizer != "sgd":
            raise ValueError("momentum is a setting of optimizer = 'sgd'; leave it out, or choose that optimizer")
        if self.warmup is not None and self.schedule != "cosine":
            raise ValueError("warmup is a setting of schedule = 'cosine'; leave it out, or choose that schedule")


@dataclass(frozen=True, config=STRICT)
class TorchTeacher:
    """A torch module to learn from: given with its weights, or trained here first."""

    model: Reference
    args: Arguments = dataclasses.field(default_factory=dict)
    weights: Path | None = None
    train: Training | None = None
    kind: Literal["torch"] = "torch"

    def __post_init__(self) -> None:
        if (self.weights is None) == (self.train is None):
            raise ValueError("teacher: give either 'weights' (a trained teacher) or a [teacher.train] table")


Teacher = Annotated[
    Annotated[TorchTeacher, Tag("torch")]
    | Annotated[teacher_config.TransformersFolder, Tag("transformers")]
    | Annotated[teacher_config.OnnxFile, Tag("onnx")]
    | Annotated[teacher_config.TFLiteFile, Tag("tflite")]
    | Annotated[teacher_config.KerasModel, Tag("keras")]
    | Annotated[teacher_config.Command, Tag("command")]
    | Annotated[teacher_config.Endpoint, Tag("http")]
    | Annotated[teacher_config.StoredOutputs, Tag("stored")]
    | Annotated[teacher_config.Ensemble, Tag("ensemble")],
    Discriminator(kind_of),
]


@dataclass(frozen=True, config=STRICT)
class Student:
    """The model to build."""

    model: Reference | None = None
    args: Arguments = dataclasses.field(default_factory=dict)
    weights: Path | None = None
    folder: Path | None = None
    """Instead of these: a classifier as `save_pretrained` of transformers wrote it."""

    def __post_init__(self) -> None:
        if self.folder is None and self.model is None:
            raise ValueError("'student.model' is missing; add it, or 'folder', that of a transformers model")
        if self.folder is not None and (self.model is not None or self.args or self.weights is not None):
            raise ValueError("student.folder: it has its own model and weights; leave out 'model', 'args', 'weights'")

    @property
    def reference(self) -> str:
        """The function that builds it."""
        return self.model or FOLDER_MODEL


@dataclass(frozen=True, config=STRICT)
class Distillation:
    """What the student minimises: by default the labels plus the teacher's softened outputs (Hinton et al. 2015).

    `temperature` and `weight` set these two; [[distill.losses]] with [distill.balance] name any others instead.
    """

    train: Training
    temperature: Positive | None = None
    """Of the softened outputs; 4 if not given, for multi-label 1."""
    weight: Share | None = None
    """Share of the teacher, 0.9 if not given; the labels have the rest."""
    losses: tuple[LossTable, ...] = ()
    balance: BalanceTable | None = None
    online: bool = False
    """Run the teacher for each batch instead of keeping its outputs. Losses over layers always do."""
    baseline: bool = False
    """Train the student without a teacher, too, as long and from the same start, to see what the teacher adds."""

    def __post_init__(self) -> None:
        if self.losses and (self.temperature, self.weight) != (None, None):
            raise ValueError(
                "distill: give either 'temperature' and 'weight' or [[distill.losses]], which have their own"
            )
        if self.balance and not self.losses:
            raise ValueError("distill.balance: it balances [[distill.losses]]; name them")
        if self.losses:
            check_weights(self.losses, self.balance)

    def objective(self, outputs: Outputs) -> ObjectiveConfig:
        """Raises UsageError, with the reason, for a loss that makes no sense for such outputs."""
        if not self.losses:
            return short_form(self.temperature, self.weight, outputs)
        balance = {} if self.balance is None else {"balance": self.balance}
        objective = ObjectiveConfig(losses=self.losses, **balance)
        check_outputs(objective, outputs)
        return objective


@dataclass(frozen=True, config=STRICT, kw_only=True)
class _Recovered:
    train: Training
    """How the student recovers: by the losses over outputs, the teacher's among them."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Prune(_Recovered):
    """Remove whole channels, those that matter least first, until a share of the cost is left."""

    kind: Literal["prune"]
    macs: Between | None = None
    """Share of the multiply-accumulates to keep."""
    params: Between | None = None
    """Or share of the parameters."""
    latency: Between | None = None
    """Or share of the latency, measured on the machine that builds: of the target's file, in its runtime."""
    target: str | None = dataclasses.field(default=None, compare=False)
    """Of a latency: a target's name or file. Its content counts in the key of the step, not its name."""
    rounds: Count = 1
    """Prune by equal ratios so many times, and recover after each."""
    protect: tuple[str, ...] = ()
    """Layers that keep their channels: module paths, or patterns such as `blocks.0.*`."""

    def __post_init__(self) -> None:
        if [self.macs, self.params, self.latency].count(None) != 2:
            raise ValueError("compress: 'prune' needs one of 'macs', 'params' and 'latency', the share to keep")
        if (self.latency is None) != (self.target is None):
            raise ValueError("compress: 'prune' needs 'target' with 'latency', and only then: whose file is measured")


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Factorize(_Recovered):
    """Replace linear and convolution layers by two thinner ones where that saves multiply-accumulates."""

    kind: Literal["factorize"]
    energy: Share | None = None
    """Share of a weight's squared singular values to keep."""
    rank: Share | None = None
    """Or share of its rank."""
    layers: tuple[str, ...] = ("*",)
    """Which ones: module paths or patterns."""

    def __post_init__(self) -> None:
        if (self.energy is None) == (self.rank is None):
            raise ValueError("compress: 'factorize' needs either 'energy' or 'rank', the share to keep")


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Sparsify(_Recovered):
    """Set the smallest weights to zero, and keep them there from then on."""

    kind: Literal["sparsify"]
    pattern: Literal["unstructured", "2:4"] = "unstructured"
    share: Between | None = None
    """Share of the weights that become zero; of 2:4 it is a half."""

    def __post_init__(self) -> None:
        if (self.share is None) == (self.pattern == "unstructured"):
            raise ValueError("compress: 'sparsify' needs 'share' where the pattern is unstructured, and only there")


@dataclass(frozen=True, config=STRICT, kw_only=True)
class MixedPrecision:
    """Keep the fewest layers float with which the calibrated student reaches a score."""

    floor: Share
    """The accuracy to reach, 0 to 1, or whatever the task's score is; taken before any training with quantizers."""
    samples: Count = 256
    """Labelled samples that it is taken on: of the validation split, or of the training split where there is none."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Quantization:
    """To int8: trained with the losses over outputs kept on (qat), or as the calibration has it (ptq)."""

    method: Literal["qat", "ptq"] = "qat"
    train: Training | None = None
    """Of qat; ptq does not look at it."""
    weight_bits: Literal[4, 8] = 8
    """Of the weights of linear and convolution layers; activations and embeddings have 8."""
    calibration_samples: Count | None = None
    """Training samples, drawn from the seed; 256 if not given, or all that there are."""
    sensitivity: bool = False
    """Find out how much each layer suffers."""
    mixed: MixedPrecision | None = None

    def __post_init__(self) -> None:
        if self.method == "qat" and self.train is None:
            raise ValueError("quantize: qat needs a [quantize.train] table; add it, or set method = 'ptq'")


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Quantize(Quantization):
    """The same as the last entry of [[compress]]."""

    kind: Literal["quantize"]


Compression = Annotated[Prune | Factorize | Sparsify | Quantize, Field(discriminator="kind")]


@dataclass(frozen=True, config=STRICT)
class Budgets:
    """What the result must hold, checked on the exported file; a build that breaks one ends with exit code 5."""

    below_teacher: Points | None = None
    """The float student may be this many points of accuracy below its teacher."""
    below_student: Points = 0.5
    """The exported model may be this many points below the float student, or two test samples if that is more."""
    bytes: Count | None = None
    """Largest file."""


@dataclass(frozen=True, config=STRICT)
class Measure:
    """How long the exported model is measured; see `edgekd.bench.protocol`."""

    protocol: Literal["rapid", "quick", "full"] = "quick"


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """One build: data, teacher, student, and the steps between them."""

    name: Name
    task: Task
    teacher: Teacher
    student: Student
    distill: Distillation
    compress: tuple[Compression, ...] = ()
    """In this order, after distillation; see `edgekd.compress.order`."""
    quantize: Quantization | None = None
    """The last one, in short."""
    budgets: Budgets = dataclasses.field(default_factory=Budgets)
    measure: Measure = dataclasses.field(default_factory=Measure)
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    ladder: dict[Name, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Other settings to build beside these, by name: tables with the keys of a recipe that differ."""

    def __post_init__(self) -> None:
        if self.quantize is None and not any(isinstance(one, Quantize) for one in self.compress):
            raise ValueError("'quantize' is missing; add a [quantize] table, with method = 'ptq' for no training")


@dataclass(frozen=True)
class Source:
    """Where a recipe was read from. Paths and user modules in it are relative to `folder`.

    rungs: of a ladder, each as a recipe of its own; the first is the recipe as it is written.
    """

    recipe: Recipe
    origin: str
    folder: Path
    rungs: Mapping[str, Recipe] = dataclasses.field(default_factory=dict)


def load_recipe(name: str | None, overrides: Sequence[str] = ()) -> Source:
    """Find and read a recipe: a file, a built-in name, or by default `edgekd.toml` here, else `digits`.

    Paths given by an override are relative to the current folder, like every path on a command line; paths in the
    file are relative to the file.

    Raises UsageError if there is no such recipe or it does not hold together.
    """
    here = Path.cwd()
    if name is None:
        name = FILE_NAME if (here / FILE_NAME).is_file() else DEFAULT
    if name.endswith(".toml") or "/" in name or Path(name).is_file():
        file = Path(name)
        text, origin, folder = read_text(file), str(file), file.resolve().parent
    else:
        built_in = {entry.stem: entry for entry in BUILT_IN_RECIPES.glob("*.toml")}
        if name not in built_in:
            raise UsageError(f"recipe '{name}': no such file or built-in recipe; {nearest(name, built_in)}")
        text, origin, folder = read_text(built_in[name]), f"built-in recipe '{name}'", here
    document = read_document(text, origin, [_from_here(override, here) for override in overrides])
    recipe = validate(Recipe, document, origin)
    return Source(recipe, origin, folder, _rungs(document, origin) if recipe.ladder else {})


def _rungs(document: dict[str, Any], origin: str) -> dict[str, Recipe]:
    ladder = document.pop("ladder")
    found = {BASE: validate(Recipe, document, origin)}
    for name, changes in ladder.items():
        if name == BASE:
            raise UsageError(f"{origin}: 'ladder.{name}': call it something else; that name is taken")
        if fixed := next((key for key in ("name", "ladder") if key in changes), None):
            raise UsageError(f"{origin}: 'ladder.{name}.{fixed}' cannot differ from the recipe's; leave it out")
        found[name] = validate(Recipe, merged(document, changes), f"{origin}, ladder.{name}")
    return found


def _from_here(override: str, here: Path) -> str:
    key, _, value = override.partition("=")
    if key.strip() in ("task.data", "task.tokenizer", *TEACHER_PATHS, "student.weights", "student.folder"):
        path = Path(value.strip().strip("\"'")).expanduser()
        return f"{key}={json.dumps(str(here / path))}"
    return override


def resolve_paths(source: Source) -> Recipe:
    """The recipe with its paths made absolute, relative to the folder that it came from."""
    recipe, folder = source.recipe, source.folder

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else (folder / path.expanduser()).resolve()

    task = dataclasses.replace(recipe.task, data=absolute(recipe.task.data))
    if isinstance(task, TextTask):
        task = dataclasses.replace(task, tokenizer=absolute(task.tokenizer))
    return dataclasses.replace(
        recipe,
        task=task,
        teacher=located(recipe.teacher, lambda path: (folder / path.expanduser()).resolve()),
        student=dataclasses.replace(
            recipe.student, weights=absolute(recipe.student.weights), folder=absolute(recipe.student.folder)
        ),
        compress=tuple(_with_target(one, folder) for one in recipe.compress),
    )


def _with_target(one: Compression, folder: Path) -> Compression:
    """The same, a target's file relative to the folder."""
    if not isinstance(one, Prune) or one.target is None or not one.target.endswith(".toml"):
        return one
    return dataclasses.replace(one, target=str((folder / Path(one.target).expanduser()).resolve()))
