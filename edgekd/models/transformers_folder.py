"""Folders that `save_pretrained` of transformers wrote, as students and as teachers: local files only, safetensors, no
code in them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekd.errors import UsageError, first_line
from edgekd.models.build import Architecture
from edgekd.models.transformers import CLASSIFIERS, IMAGE, SPECTROGRAMS, TOKENS, adapted
from edgekd.quiet import quiet
from edgekd.recipe import FOLDER_MODEL
from edgekd.tasks.text import TOKENIZER_FILE, padding_of, same_tokenizer

LOCAL = {"local_files_only": True, "trust_remote_code": False}
OF_THE_FOLDER = (
    "architectures",
    "id2label",
    "label2id",
    "num_labels",
    "transformers_version",
    "dtype",
    "_name_or_path",
)
"""What of a configuration says nothing about how its model is built."""
TOLD = {TOKENS: "token ids", IMAGE: "images, or log-mel features of recordings,"}
TOLERANCE = 1e-3


def require_config(folder: Path, name: str) -> None:
    """Raise UsageError for a folder without config.json. name: what a message calls the folder."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"{name} is not the folder of a transformers model (no config.json)")


def pretrained(folder: Path, classifier: str, name: str, **settings: Any) -> tuple[Any, Any]:
    """A folder's model as this class of transformers, float32 and in eval mode, and what was found when it was loaded.

    settings: those of `from_pretrained`. Raises UsageError if it cannot be opened so or lacks weights.
    """
    import transformers

    try:
        with quiet():
            made, report = getattr(transformers, classifier).from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **settings, **LOCAL
            )
    except Exception as error:  # transformers raises whatever its readers run into
        raise UsageError(f"{name} cannot be opened as {classifier} ({first_line(error)})") from error
    if absent := sorted(report["missing_keys"]):
        raise UsageError(f"{name} has no weights for '{absent[0]}'; it was not trained as a classifier")
    return made.eval(), report


def read_folder(
    folder: Path, input_shape: tuple[int, ...], classes: int, vocabulary: int | None, tokenizer: Path | None
) -> Architecture:
    """How to build the model of a folder for data of this kind, without the folder. tokenizer: the file of the task's.

    Raises UsageError if it is no classifier that takes such inputs, or if its tokenizer is not the task's.
    """
    name = f"student.folder: {folder}"
    require_config(folder, name)
    config = _config(folder, name)
    classifier = next(iter(config.architectures or ()), "nothing that it names")
    kind = _class_of(classifier, name)
    wanted = TOKENS if vocabulary is not None else IMAGE
    if kind.main_input_name != wanted and classifier != SPECTROGRAMS:
        raise UsageError(
            f"{name}: {classifier} takes '{kind.main_input_name}', a student of this task gets "
            f"{TOLD[wanted]} of shape {input_shape}; give a model of these"
        )
    padding = None if vocabulary is None else _padding(folder, tokenizer, name)
    plain: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    kept = {key: value for key, value in plain.items() if key not in OF_THE_FOLDER}
    args = {"architecture": classifier, "config": kept, "padding": padding}
    return Architecture(FOLDER_MODEL, args, input_shape, classes, vocabulary)


def load_folder(module: nn.Module, folder: Path, architecture: Architecture, labels: Sequence[str]) -> tuple[str, ...]:
    """Fill a module that was built by `read_folder` with the folder's weights.

    labels: the data's classes; a head for classes of these names is put in their order.

    Returns the names of the parameters that start anew: those of a head with another number of classes. Raises
    UsageError if weights are missing, damaged or do not fit, or if the module does not answer as transformers does.
    """
    name = f"student.folder: {folder}"
    given = _config(folder, name)
    named, before = [str(label) for _, label in sorted(given.id2label.items())], given.num_labels
    given.num_labels = architecture.classes
    made, report = pretrained(
        folder,
        architecture.args["architecture"],
        name,
        config=given,
        attn_implementation="eager",
        ignore_mismatched_sizes=True,
    )
    for key, found, wanted in sorted(report["mismatched_keys"]):
        if (found[0], wanted[0]) != (before, architecture.classes) or before == architecture.classes:
            raise UsageError(
                f"{name}: '{key}' has shape {tuple(found)}, its config.json says {tuple(wanted)}; save it again"
            )
    for key, tensor in made.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UsageError(f"{name}: '{key}' holds NaN or infinity")
    _in_order(made, named, labels)
    inputs, expected = _answers(made, architecture)
    with torch.no_grad():
        rewritten = adapted(made, architecture.input_shape, architecture.vocabulary, architecture.args["padding"])
        if (rewritten(inputs) - expected).abs().max() > TOLERANCE * expected.abs().max():
            kind = architecture.args["architecture"]
            raise UsageError(f"{name}: {kind} has attention of a kind that cannot be exported; give another model")
    module.load_state_dict(rewritten.state_dict())
    return tuple(sorted(key for key, _, _ in report["mismatched_keys"]))


def _config(folder: Path, name: str) -> Any:
    import transformers

    try:
        with quiet():
            return transformers.AutoConfig.from_pretrained(folder, **LOCAL)
    except Exception as error:  # transformers raises whatever its readers run into
        raise UsageError(f"{name}: config.json cannot be read ({first_line(error)})") from error


def _class_of(classifier: str, name: str) -> Any:
    import transformers

    with quiet():
        found = getattr(transformers, classifier, None) if classifier.endswith(CLASSIFIERS) else None
    if found is None:
        raise UsageError(f"{name}: its config.json is of {classifier}, not of a classifier of images, audio or text")
    return found


def _padding(folder: Path, tokenizer: Path | None, name: str) -> int:
    own = folder / TOKENIZER_FILE
    if tokenizer is None or not same_tokenizer(own, tokenizer):
        has = "and the task has another" if own.is_file() else "but there is none"
        raise UsageError(f"{name}: its words are those of its {TOKENIZER_FILE}, {has}; set task.tokenizer to that file")
    return padding_of(own)


@torch.no_grad()
def _in_order(made: Any, named: list[str], labels: Sequence[str]) -> None:
    if sorted(named) != sorted(labels):
        return
    *_, head = (layer for layer in made.modules() if isinstance(layer, nn.Linear))
    order = [named.index(label) for label in labels]
    for parameter in head.parameters():
        parameter.copy_(parameter[order])


@torch.no_grad()
def _answers(made: Any, architecture: Architecture) -> tuple[torch.Tensor, torch.Tensor]:
    """Two samples, the second of a text half padding, and what transformers itself answers to them."""
    random = torch.Generator().manual_seed(0)
    shape, vocabulary, padding = architecture.input_shape, architecture.vocabulary, architecture.args["padding"]
    if vocabulary is None:
        inputs = torch.randn(2, *shape, generator=random)
        return inputs, made(inputs[:, 0] if type(made).__name__ == SPECTROGRAMS else inputs).logits
    ids = torch.randint(vocabulary, (2, *shape), generator=random, dtype=torch.int32)
    ids[1, shape[0] // 2 :] = padding
    return ids, made(ids, attention_mask=(ids != padding).long()).logits
