"""Recipe x targets: the ordered steps of a build, with every contract and dependency checked before one runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from edgekd.artifact import State
from edgekd.compress.order import Shrinking, in_order
from edgekd.compress.quantizers import INT4
from edgekd.dependencies import (
    DATA,
    EXPORTING,
    FORMAT_EXTRAS,
    PRUNING,
    QUANTIZING,
    RUNTIMES,
    TEACHER_EXTRAS,
    TEACHING,
    TEXT,
    TRAINING,
    require,
    require_runtime,
)
from edgekd.device import device_label
from edgekd.distill.config import ObjectiveConfig, for_fine_tuning, labels_alone, over_layers
from edgekd.distill.teacher_config import can_be_tapped, members_of, modules_of, takes_raw
from edgekd.errors import DeviceError, UsageError
from edgekd.keys import (
    Fingerprints,
    config_document,
    digest,
    package_version,
    source_digest,
)
from edgekd.recipe import Prune, Quantization, Recipe, TextTask, TorchTeacher
from edgekd.references import MODELS, module_of
from edgekd.runners.measurable import measured_on, require_measurable
from edgekd.step import Step
from edgekd.step_configs import (
    CompressConfig,
    CompressionCheckConfig,
    ExportConfig,
    MeasureConfig,
    ObjectiveCheckConfig,
    PreflightConfig,
    QuantizeConfig,
    StudentConfig,
    TeacherConfig,
    Timing,
    VerifyConfig,
)
from edgekd.target import Precision, Target, load_target, target_label

COMPARISON_PROTOCOL = "brief"
HERE = "local"
"""The device on which a latency to prune by is taken."""
PREFLIGHT = State("preflight")
OBJECTIVE = "preflight[objective]"
COMPRESSION = "preflight[compress]"
BASELINE = "student alone"
FOLDER_KIND = "transformers"
STRUCTURES: dict[str, Literal["pruned", "factorized", "sparse"]] = {
    "prune": "pruned",
    "factorize": "factorized",
    "sparsify": "sparse",
}
"""What a student is after each kind of compression."""


@dataclass(frozen=True)
class TargetPlan:
    """One target of a plan, and the names of the steps that make, check and measure it.

    The float student is measured beside the exported model, in the same runtime, as is a teacher that can be exported.
    """

    name: str
    target: Target
    preflight: str
    export: str
    float_export: str
    checks: str
    measurements: tuple[str, ...]
    student_measurements: tuple[str, ...]
    teacher_measurements: tuple[str, ...]

    @property
    def all_measurements(self) -> tuple[str, ...]:
        return (*self.measurements, *self.student_measurements, *self.teacher_measurements)


@dataclass(frozen=True)
class Plan:
    """Steps in an order in which they can run, the key of each, and the targets they lead to.

    compressed: the steps that shrink the float student, in their order. rung: of a ladder, or empty.
    """

    recipe: Recipe
    steps: tuple[Step, ...]
    keys: Mapping[str, str]
    targets: tuple[TargetPlan, ...]
    compressed: tuple[str, ...] = ()
    rung: str = ""

    @property
    def preflights(self) -> list[Step]:
        """What is tried of the student, the objective and the compression; each target has a preflight of its own."""
        own = {target.preflight for target in self.targets}
        return [step for step in self.steps if step.ensures == PREFLIGHT and step.name not in own]

    @cached_property
    def by_name(self) -> dict[str, Step]:
        return {step.name: step for step in self.steps}


def make_plan(
    recipe: Recipe,
    target_names: Sequence[str],
    fingerprints: Fingerprints,
    devices: Sequence[str] = (),
    rung: str = "",
) -> Plan:
    """Lay out the steps and check them. `devices` overrides the devices that a target names. rung: see `Plan`.

    Raises UsageError for an unknown target or device, data or modules that are missing, or steps that do not fit
    each other; DependencyError for packages that are not installed.
    """
    targets = [(target_label(name), load_target(name)) for name in dict.fromkeys(target_names)]
    labels = [label for label, _ in targets]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UsageError(f"targets: two are called '{twice[0]}'; rename one of the files")
    shrinking, quantization = in_order(recipe.compress, recipe.quantize)
    preflights = [_seeded(_preflight_step(name, target, recipe, quantization), recipe.seed) for name, target in targets]
    objective = recipe.distill.objective(recipe.task.outputs)
    tried = _seeded(_objective_step(recipe, objective), recipe.seed)
    timings = [_timing(one, quantization) for one in shrinking]
    checks = [_seeded(_compression_check(recipe, shrinking, timings), recipe.seed)] if shrinking else []
    training = _training_steps(recipe, objective)
    compressing = _compressing_steps(recipe, objective, shrinking, timings)
    final = compressing[-1] if compressing else training["student"]
    program = _program_step(recipe, objective, quantization, final)
    steps = {step.name: step for step in (tried, *preflights, *checks)} | training
    steps |= {step.name: _seeded(step, recipe.seed) for step in (*compressing, program)}
    plans = []
    for name, target in targets:
        added, plan = _target_steps(name, target, recipe, final, program, devices or target.devices)
        steps.update(added)
        plans.append(plan)
    ordered = tuple(_with_packages(step, recipe) for step in steps.values())
    check_contracts(ordered)
    kinds = _teacher_kinds(recipe) | ({FOLDER_KIND} if recipe.student.folder else set())
    extras = [TEACHER_EXTRAS[kind] for kind in kinds & TEACHER_EXTRAS.keys()]
    opened = [*(target for _, target in targets), *(one.target for one in timings if one)]
    require(
        (package for step in ordered for package in step.packages),
        [*(FORMAT_EXTRAS[target.format] for target in opened), *extras],
    )
    for target in opened:
        require_runtime(target.runtime)
    names = tuple(step.name for step in compressing)
    return Plan(recipe, ordered, keys_of(ordered, fingerprints), tuple(plans), names, rung)


def _data_packages(recipe: Recipe) -> tuple[str, ...]:
    return TEXT if isinstance(recipe.task, TextTask) else DATA


def _preflight_step(name: str, target: Target, recipe: Recipe, quantization: Quantization) -> Step:
    return Step(
        f"preflight[{name}]",
        "edgekd.verify.preflight:preflight",
        PreflightConfig(
            recipe.task, recipe.student, target, quantization.weight_bits, quantization.calibration_samples
        ),
        PREFLIGHT,
        packages=(*_data_packages(recipe), *QUANTIZING, *EXPORTING[target.format], *RUNTIMES[target.runtime]),
        modules=(*_data_modules(recipe), *_student_modules(recipe)),
    )


def _objective_step(recipe: Recipe, objective: ObjectiveConfig) -> Step:
    teacher = recipe.teacher if isinstance(recipe.teacher, TorchTeacher) else None
    return Step(
        OBJECTIVE,
        "edgekd.distill.check:check_objective",
        ObjectiveCheckConfig(recipe.task, teacher, recipe.student, objective),
        PREFLIGHT,
        packages=(*_data_packages(recipe), *TRAINING),
        modules=(
            *_data_modules(recipe),
            *(_teacher_modules(recipe) if teacher else ()),
            *_student_modules(recipe),
        ),
    )


def _data_modules(recipe: Recipe) -> tuple[str, ...]:
    return (module_of(recipe.task.source),)


def _teacher_modules(recipe: Recipe) -> tuple[str, ...]:
    return tuple(module_of(reference, MODELS) for reference in modules_of(recipe.teacher))


def _student_modules(recipe: Recipe) -> tuple[str, ...]:
    return (module_of(recipe.student.reference, MODELS),)


def _training_steps(recipe: Recipe, objective: ObjectiveConfig) -> dict[str, Step]:
    data = State("dataset")
    online = recipe.distill.online or any(over_layers(loss) for loss in objective.losses)
    _check_teacher(recipe, objective)
    steps = [
        Step(
            "data",
            "edgekd.tasks.steps:prepare",
            recipe.task,
            data,
            packages=_data_packages(recipe),
            modules=_data_modules(recipe),
        ),
        *_teacher_steps(recipe),
        _student_step("student", recipe, objective, ("teacher",) if online else ("outputs",)),
    ]
    if recipe.distill.baseline:
        steps.append(_student_step(BASELINE, recipe, labels_alone(), ()))
    return {step.name: _seeded(step, recipe.seed) for step in steps}


def _timing(one: Shrinking, quantization: Quantization) -> Timing | None:
    """How a latency that is to be pruned is taken. Raises UsageError for a target whose runtime is not here."""
    if not isinstance(one, Prune) or one.target is None:
        return None
    target = load_target(one.target)
    try:
        require_measurable(HERE, target.runtime)
    except DeviceError as error:
        raise UsageError(
            f"compress: 'prune' cannot measure target '{target_label(one.target)}': {target.runtime} does not run on "
            "this machine; name another target"
        ) from error
    return Timing(target, quantization.weight_bits, measured_on(HERE))


def _timing_packages(timing: Timing | None) -> tuple[str, ...]:
    return (*QUANTIZING, *EXPORTING[timing.target.format], *RUNTIMES[timing.target.runtime]) if timing else ()


def _compression_check(recipe: Recipe, shrinking: Sequence[Shrinking], timings: Sequence[Timing | None]) -> Step:
    return Step(
        COMPRESSION,
        "edgekd.compress.check:check_compression",
        CompressionCheckConfig(recipe.task, recipe.student, tuple(shrinking), tuple(timings)),
        PREFLIGHT,
        packages=(*_data_packages(recipe), *PRUNING, *(name for one in timings for name in _timing_packages(one))),
        modules=(*_data_modules(recipe), *_student_modules(recipe)),
    )


def _compressing_steps(
    recipe: Recipe, objective: ObjectiveConfig, shrinking: Sequence[Shrinking], timings: Sequence[Timing | None]
) -> list[Step]:
    """What shrinks the float student, each step from the one before."""
    steps, source = [], "student"
    for one, timing in zip(shrinking, timings, strict=True):
        step = Step(
            one.kind,
            f"edgekd.compress.{'latency:prune_by_latency' if timing else 'steps:compress_student'}",
            CompressConfig(one, for_fine_tuning(objective, recipe.task.outputs), timing),
            State("torch", "float32", STRUCTURES[one.kind]),
            inputs={"data": "data", "outputs": "outputs", "student": source},
            requires={"data": State("dataset"), "outputs": State("outputs"), "student": State("torch", "float32")},
            packages=(*(PRUNING if one.kind == "prune" else TRAINING), *_timing_packages(timing)),
            modules=_student_modules(recipe),
            distributed=True,
        )
        steps.append(_seeded(step, recipe.seed))
        source = step.name
    return steps


def _program_step(recipe: Recipe, objective: ObjectiveConfig, quantization: Quantization, final: Step) -> Step:
    """final: the step whose float student is quantized."""
    return Step(
        "program",
        "edgekd.compress.steps:quantize_student",
        QuantizeConfig(quantization, for_fine_tuning(objective, recipe.task.outputs)),
        State("torch", quantization.method, final.ensures.structure),
        inputs={"data": "data", "outputs": "outputs", "student": final.name},
        requires={"data": State("dataset"), "outputs": State("outputs"), "student": State("torch", "float32")},
        packages=QUANTIZING,
        modules=_student_modules(recipe),
        distributed=True,
    )


def _check_teacher(recipe: Recipe, objective: ObjectiveConfig) -> None:
    """Raises UsageError where the objective wants more of a teacher than answers that can be kept."""
    if can_be_tapped(recipe.teacher):
        return
    only = f"a teacher of the kind '{recipe.teacher.kind}' gives its outputs only"
    if layered := next((loss.kind for loss in objective.losses if over_layers(loss)), None):
        raise UsageError(f"distill.losses: '{layered}' looks into layers, and {only}; choose losses over outputs")
    if recipe.distill.online:
        raise UsageError(f"distill.online: it runs a torch module in each batch, and {only}; leave it out")


def _teacher_steps(recipe: Recipe) -> list[Step]:
    """Both look at the raw samples where the teacher may; then they depend on what the data come from."""
    data, teacher = State("dataset"), recipe.teacher
    raw = takes_raw(teacher)
    config = TeacherConfig(teacher, recipe.task if raw else None)
    packages = (*TRAINING, *(package for kind in _teacher_kinds(recipe) for package in TEACHING.get(kind, ())))
    modules = _teacher_modules(recipe)
    if raw:
        packages, modules = (*packages, *_data_packages(recipe)), (*modules, *_data_modules(recipe))
    state = State("torch", "float32", "dense") if can_be_tapped(teacher) else State("teacher")
    steps = "edgekd.distill.teachers.steps"
    return [
        Step(
            "teacher",
            f"{steps}:train_teacher",
            config,
            state,
            inputs={"data": "data"},
            requires={"data": data},
            packages=packages,
            modules=modules,
            distributed=True,
        ),
        Step(
            "outputs",
            f"{steps}:cache_outputs",
            config,
            State("outputs"),
            inputs={"data": "data", "teacher": "teacher"},
            requires={"data": data, "teacher": state},
            packages=packages,
            modules=modules,
            distributed=True,
        ),
    ]


def _teacher_kinds(recipe: Recipe) -> set[str]:
    return {member.kind for member in members_of(recipe.teacher)}


def _student_step(name: str, recipe: Recipe, objective: ObjectiveConfig, sources: tuple[str, ...]) -> Step:
    """A student that learns from the data and from these steps."""
    states = {"outputs": State("outputs"), "teacher": State("torch", "float32")}
    return Step(
        name,
        "edgekd.distill.steps:distill_student",
        StudentConfig(recipe.student, objective, recipe.distill.train),
        State("torch", "float32", "dense"),
        inputs={"data": "data", **{source: source for source in sources}},
        requires={"data": State("dataset"), **{source: states[source] for source in sources}},
        packages=TRAINING,
        modules=(*(_teacher_modules(recipe) if "teacher" in sources else ()), *_student_modules(recipe)),
        distributed=True,
    )


def _target_steps(
    name: str, target: Target, recipe: Recipe, final: Step, program: Step, devices: Iterable[str]
) -> tuple[dict[str, Step], TargetPlan]:
    runtime = RUNTIMES[target.runtime]
    sources = {"float32": final, "float16": final, "int8": program, "int8-weights": program}
    export, float_export = (
        _export_step(target, precision, recipe, sources[precision]) for precision in (target.precision, "float32")
    )
    compared = [("exported", export), ("student", float_export)]
    if can_be_tapped(recipe.teacher):
        compared.append(("teacher", _teacher_export_step(target, recipe)))
    checks = Step(
        f"verify[{name}]",
        "edgekd.verify.steps:verify_export",
        VerifyConfig(target.runtime, target.precision, target.output, target.parity, target.coverage, recipe.budgets),
        State("checks"),
        inputs={
            "export": export.name,
            "float": float_export.name,
            "program": program.name,
            "student": "student",
            "compressed": final.name,
            "teacher": "teacher",
            "outputs": "outputs",
            "data": "data",
        },
        requires={
            "export": State(target.format, target.precision),
            "float": State(target.format, "float32"),
            "program": program.ensures,
            "compressed": final.ensures,
        },
        packages=(*QUANTIZING, *runtime),
        modules=_student_modules(recipe),
    )
    steps = [export, float_export, checks]
    measured: dict[str, list[str]] = {"exported": [], "student": [], "teacher": []}
    for device in devices:
        require_measurable(device, target.runtime)
        steps += [source for _, source in compared if source not in steps]
        for role, source in compared:
            checked = (name, checks.name) if role == "exported" else None
            step = _measure_step(source.name, device, target, recipe, checked)
            measured[role].append(step.name)
            steps.append(step)
    plan = TargetPlan(
        name=name,
        target=target,
        preflight=f"preflight[{name}]",
        export=export.name,
        float_export=float_export.name,
        checks=checks.name,
        measurements=tuple(measured["exported"]),
        student_measurements=tuple(measured["student"]),
        teacher_measurements=tuple(measured["teacher"]),
    )
    return {step.name: _seeded(step, recipe.seed) for step in steps}, plan


def _export_step(target: Target, precision: Precision, recipe: Recipe, source: Step) -> Step:
    """The student in a precision. source: the step of the float student, or of the quantized program for integers."""
    integers = precision in ("int8", "int8-weights")
    int4 = integers and target.takes_int4 and source.config.quantization.weight_bits == INT4
    return Step(
        f"export[{_described(target, precision)}{', int4' if int4 else ''}]",
        f"edgekd.export.steps:{'export_quantized' if integers else 'export_student'}",
        ExportConfig(target.format, precision, target.output, recipe.name, int4),
        State(target.format, precision, source.ensures.structure),
        inputs={"program" if integers else "student": source.name, "data": "data"},
        requires={"program" if integers else "student": source.ensures, "data": State("dataset")},
        packages=(*(QUANTIZING if integers else TRAINING), *EXPORTING[target.format]),
        modules=_student_modules(recipe),
    )


def _teacher_export_step(target: Target, recipe: Recipe) -> Step:
    return Step(
        f"export[{_described(target, 'float32')} teacher]",
        "edgekd.export.steps:export_teacher",
        ExportConfig(target.format, "float32", target.output, recipe.name),
        State(target.format, "float32", "dense"),
        inputs={"teacher": "teacher", "data": "data"},
        requires={"teacher": State("torch", "float32"), "data": State("dataset")},
        packages=(*TRAINING, *EXPORTING[target.format]),
        modules=_teacher_modules(recipe),
    )


def _described(target: Target, precision: Precision) -> str:
    words = (target.format, precision, "" if target.output == "logits" else target.output)
    return " ".join(word for word in words if word)


def _measure_step(source: str, device: str, target: Target, recipe: Recipe, checked: tuple[str, str] | None) -> Step:
    """Measure an export. The model of a target is measured by the recipe's protocol and after its checks (`checked`:
    the target and the step that checks it); the models that it is compared with by a shorter one.
    """
    inputs = {"export": source, "data": "data"}
    what = checked[0] if checked else f"{source.removeprefix('export[').removesuffix(']')} in {target.runtime}"
    protocol = recipe.measure.protocol if checked else COMPARISON_PROTOCOL
    return Step(
        f"measure[{what} on {device_label(device)}]",
        "edgekd.bench.steps:measure_export",
        MeasureConfig(target.runtime, target.precision, device, protocol, measured_on(device), target.parity.agreement),
        State("measurement"),
        inputs={**inputs, "checks": checked[1]} if checked else inputs,
        requires={"export": State(target.format), "data": State("dataset")},
        packages=("numpy", *RUNTIMES[target.runtime]),
    )


def _with_packages(step: Step, recipe: Recipe) -> Step:
    """A student of transformers needs them wherever it is built."""
    if recipe.student.folder is None or not set(_student_modules(recipe)) & set(step.modules):
        return step
    return Step(**{**vars(step), "packages": (*step.packages, *TEACHING[FOLDER_KIND])})


def _seeded(step: Step, seed: int) -> Step:
    return Step(**{**vars(step), "seed": seed})


def check_contracts(steps: Sequence[Step]) -> None:
    """Every input must come from an earlier step, in the state that the step requires. Raises UsageError."""
    made: dict[str, State] = {}
    for step in steps:
        for role, source in step.inputs.items():
            if source not in made:
                raise UsageError(f"plan: step '{step.name}' needs '{source}', which no earlier step makes")
            required = step.requires.get(role)
            if required is not None and not made[source].meets(required):
                raise UsageError(f"plan: step '{step.name}' needs a {required} as {role}; '{source}' is {made[source]}")
        made[step.name] = step.ensures


def versions_of(step: Step) -> dict[str, str]:
    return {name: package_version(name) or "" for name in sorted(set(step.packages))}


def keys_of(steps: Iterable[Step], fingerprints: Fingerprints) -> dict[str, str]:
    """The key of each step: all that its result depends on, and nothing else. Its name is not part of it."""
    keys: dict[str, str] = {}
    for step in steps:
        document = {
            "function": step.function,
            "config": config_document(step.config, fingerprints),
            "inputs": {role: keys[source] for role, source in step.inputs.items()},
            "source": source_digest((step.function.partition(":")[0], *step.modules)),
            "versions": versions_of(step),
            "seed": step.seed,
        }
        keys[step.name] = digest(document)
    return keys
