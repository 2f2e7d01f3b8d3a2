"""The steps that have a teacher ready, and its answers to all samples."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekd.artifact import Facts
from edgekd.distill.distiller import Distiller, supervised
from edgekd.distill.examples import load_examples, load_validation
from edgekd.distill.logs import keep
from edgekd.distill.steps import architecture_for
from edgekd.distill.teachers.blocks import Process, assemble, blocks_of, fill, this_process
from edgekd.distill.teachers.opening import opened
from edgekd.distill.teachers.samples import Samples
from edgekd.distill.trainer import fit
from edgekd.models.build import build, example_input, load_weights, parameter_count, save_module
from edgekd.models.cost import macs
from edgekd.models.evaluate import quality_of
from edgekd.recipe import TorchTeacher
from edgekd.seeding import deterministic
from edgekd.step import Work
from edgekd.step_configs import TeacherConfig
from edgekd.tasks.labels import check_taught


def train_teacher(work: Work[TeacherConfig]) -> Facts:
    """Have the teacher ready: load or train a torch module, open any other one, and let it answer to the test split.

    Files: `test.npy`, float32 (N, outputs); of a torch module its weights and architecture. `params` and `macs` are
    None where nobody knows them. Raises UsageError if it does not fit the data.
    """
    deterministic(work.seed)
    if isinstance(work.config.teacher, TorchTeacher):
        return _train(work, work.config.teacher)
    params = _answer(work, ["test"])
    if this_process().rank:
        return {}
    return _facts(work, str(work.config.teacher.kind), params, None)


def cache_outputs(work: Work[TeacherConfig]) -> Facts:
    """The teacher's answers: logits, or the numbers of a regression, in the order of the data's labels.

    Files, float32: `train.npy` (views, N, outputs), for every view of the training set; `test.npy` (N, outputs), and
    `validation.npy` where there is such a split. In several processes each computes its share of the blocks in
    `work.scratch`, from which a run that was killed goes on, and the main one writes the files.

    Raises GateError if an output is not finite, naming the sample.
    """
    deterministic(work.seed)
    data = work.inputs["data"]
    splits = ["train", *(["validation"] if "validation_inputs.npy" in data.files else [])]
    _answer(work, splits, work.inputs["teacher"].path)
    shutil.copyfile(work.inputs["teacher"].file("test.npy"), work.out / "test.npy")
    return {"outputs": data.facts["views"] * data.facts["train_samples"]}


def _train(work: Work[TeacherConfig], teacher: TorchTeacher) -> Facts:
    data = work.inputs["data"]
    architecture = architecture_for(teacher.model, teacher.args, data)
    module = build(architecture, "teacher")
    if teacher.weights is not None:
        load_weights(module, teacher.weights, "teacher")
    if teacher.train is not None:
        examples, outputs = load_examples(data), data.facts["outputs"]
        check_taught(examples.labels.numpy(), outputs, data.facts["labels"])
        fit(
            Distiller(module, None, supervised(outputs)),
            examples,
            teacher.train,
            work.seed,
            work.progress,
            validation=load_validation(data),
            folder=work.scratch,
        )
        keep(work.scratch, work.out)
    save_module(module, architecture, work.out)
    _answer(dataclasses.replace(work, scratch=None), ["test"], work.out)
    return _facts(work, architecture.model, parameter_count(module), macs(module, example_input(architecture)))


def _answer(work: Work[TeacherConfig], splits: Sequence[str], trained: Path | None = None) -> int | None:
    """Write `<split>.npy` for these splits, and return how many parameters the teacher has, as far as is known.

    trained: where a torch module lies that was trained or loaded. Without `work.scratch` this process does it all.
    """
    process = Process() if work.scratch is None else this_process()
    samples = Samples(work.inputs["data"], work.config.task, work.seed)
    folder = work.scratch or work.out / "blocks"
    folder.mkdir(parents=True, exist_ok=True)
    blocks = blocks_of({split: samples.shapes[split] for split in splits})
    with opened(work.config.teacher, samples, trained) as (answer, params):
        fill(
            blocks,
            folder,
            lambda block: answer(samples.batch(block.split, block.view, block.start, block.stop)),
            process,
            work.progress,
        )
    if process.rank == 0:
        files = {}
        for split in splits:
            shape = samples.shapes[split] if split == "train" else samples.shapes[split][1:]
            files[split] = (work.out / f"{split}.npy", (*shape, len(samples.labels)))
        assemble(blocks, folder, files)
    if work.scratch is None:
        shutil.rmtree(folder)
    return params


def _facts(work: Work[TeacherConfig], model: str, params: int | None, operations: int | None) -> Facts:
    quality = quality_of(np.load(work.out / "test.npy"), work.inputs["data"])
    return {"model": model, "params": params, "macs": operations, **quality}
