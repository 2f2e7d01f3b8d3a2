"""The report as one JSON document, put together from what the steps found out."""

from collections.abc import Mapping
from typing import Any

from edgekd.artifact import Artifact
from edgekd.keys import digest
from edgekd.plan import BASELINE, PREFLIGHT, Plan, TargetPlan


def build_document(plan: Plan, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """All that a reader of the report can ask for. Equal artifacts give an equal document."""
    teacher, student = artifacts["teacher"], artifacts["student"]
    data, program = artifacts["data"], artifacts["program"]
    compressed = [artifacts[name] for name in plan.compressed]
    return {
        "recipe": plan.recipe.name,
        "seed": plan.recipe.seed,
        "data": data.facts,
        "teacher": teacher.facts,
        "student": student.facts,
        "baseline": artifacts[BASELINE].facts if BASELINE in artifacts else None,
        "distillation": student.provenance.config,
        "compression": [
            {"config": one.provenance.config, **{name: one.facts[name] for name in ("bought", "sparsity")}}
            for one in compressed
        ],
        "quantization": program.provenance.config,
        "sensitivity": program.facts["sensitivity"],
        "float_layers": program.facts["float_layers"],
        "artifacts": [target_document(target, artifacts, [student, *compressed][-1]) for target in plan.targets],
        "steps": [
            {
                "name": step.name,
                "key": plan.keys[step.name],
                "seconds": artifacts[step.name].provenance.seconds,
                "created": artifacts[step.name].provenance.created,
            }
            for step in plan.steps
            if step.ensures != PREFLIGHT
        ],
        "versions": _versions(artifacts),
    }


def target_document(target: TargetPlan, artifacts: Mapping[str, Artifact], student: Artifact) -> dict[str, Any]:
    """One exported model: what it is, what was checked, what was measured. student: the float one behind it."""
    export, checks = artifacts[target.export], artifacts[target.checks]
    float_export = artifacts[target.float_export]
    return {
        "target": target.name,
        "title": target.target.title,
        "format": target.target.format,
        "runtime": target.target.runtime,
        "path": f"{target.name}/{export.facts['file']}",
        "bytes": export.facts["bytes"],
        "sha256": _model_digest(export),
        "precision": target.target.precision,
        "output_kind": target.target.output,
        "float32": {
            "bytes": float_export.facts["bytes"],
            "path": f"{target.name}/float32/{float_export.facts['file']}",
        },
        "accuracy": checks.facts["accuracy"],
        "metric": checks.facts["metric"],
        "metrics": checks.facts["metrics"],
        "parity": checks.facts["parity"],
        "parity_limits": checks.facts["limits"],
        "coverage_limits": vars(target.target.coverage),
        "quantizers": checks.facts["quantizers"],
        "weights": checks.facts["weights"],
        "ops": checks.facts["ops"],
        "cost": {
            "params": student.facts["params"],
            "macs": student.facts["macs"],
            "bytes_moved": checks.facts["bytes_moved"],
        },
        "input": checks.facts["input"],
        "output": checks.facts["output"],
        "measurements": [measurement_document(artifacts[name]) for name in target.measurements],
        "comparison": {
            "student": [measurement_document(artifacts[name]) for name in target.student_measurements],
            "teacher": [measurement_document(artifacts[name]) for name in target.teacher_measurements],
        },
    }


def _model_digest(export: Artifact) -> str:
    """SHA-256 of the model's file; of a folder, that of the names and digests of what is in it."""
    name = export.facts["file"]
    if name in export.files:
        return export.files[name].sha256
    return digest([[part, info.sha256] for part, info in sorted(export.files.items()) if part.startswith(f"{name}/")])


def measurement_document(artifact: Artifact) -> dict[str, Any]:
    return {**artifact.facts, "taken": artifact.provenance.created}


def _versions(artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    return {
        name: version
        for artifact in artifacts.values()
        for name, version in sorted(artifact.provenance.versions.items())
    }
