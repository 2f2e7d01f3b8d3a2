"""Folders that `save_pretrained` of transformers wrote, as teachers: local files only, safetensors, no code in them.

Sentences are given as the task's token ids where the folder has the task's tokenizer, else through its own one. Images
and recordings go through its own preprocessing where it has one.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekd.distill.teacher_config import TransformersFolder
from edgekd.distill.teachers.answers import Source, given_to
from edgekd.distill.teachers.samples import Batch, Samples
from edgekd.errors import UsageError, first_line
from edgekd.models.evaluate import fastest_device
from edgekd.models.transformers_folder import LOCAL, pretrained, require_config
from edgekd.quiet import quiet
from edgekd.tasks.text import TOKENIZER_FILE, UNKNOWN, same_tokenizer

CLASSIFIERS = {
    "image": "AutoModelForImageClassification",
    "audio": "AutoModelForAudioClassification",
    "text": "AutoModelForSequenceClassification",
}
"""By the first word of the task's kind."""
PREPROCESSOR = "preprocessor_config.json"
UNNAMED = "LABEL_"
"""How transformers calls classes that nobody named."""
GREY, COLOUR = 1, 3

Given = Callable[[Batch], Mapping[str, Any]]


def open_folder(config: TransformersFolder, samples: Samples, name: str) -> Source:
    """Load the model, and what makes its inputs.

    Raises UsageError if the folder is no such model or lacks weights, or if it cannot be given the task's samples.
    """
    folder, modality = config.folder, str(samples.facts["task"]).partition("-")[0]
    require_config(folder, f"{name}: {folder}")
    model, _ = pretrained(folder, CLASSIFIERS[modality], f"{name}: {folder}")
    model = model.to(fastest_device())
    given = _given(config, model, samples, modality, name)

    @torch.no_grad()
    def numbers(batch: Batch) -> np.ndarray:
        inputs = {key: torch.as_tensor(value).to(model.device) for key, value in given(batch).items()}
        logits: np.ndarray = model(**inputs).logits.float().cpu().numpy()
        return logits

    named = [str(label) for _, label in sorted(model.config.id2label.items())]
    labels = () if any(label.startswith(UNNAMED) for label in named) else named
    return Source(numbers, name, config.labels or labels, config.outputs or "logits", model.num_parameters())


def _given(config: TransformersFolder, model: Any, samples: Samples, modality: str, name: str) -> Given:
    if config.preprocess is not None:
        return _by_name(given_to(config.preprocess), model)
    if modality == "text":
        return _text(config.folder, model, samples, name)
    if not (config.folder / PREPROCESSOR).is_file():
        return _by_name(given_to(None), model)
    if modality == "image":
        return _images(config.folder, model, name)
    return _waveforms(config.folder, samples, name)


def _by_name(given: Callable[[Batch], Any], model: Any) -> Given:
    """One array is the model's main input."""

    def named(batch: Batch) -> Mapping[str, Any]:
        inputs = given(batch)
        return inputs if isinstance(inputs, Mapping) else {model.main_input_name: inputs}

    return named


def _images(folder: Path, model: Any, name: str) -> Given:
    processor = _loaded("AutoImageProcessor", folder, name, backend="pil")
    channels = getattr(model.config, "num_channels", COLOUR)

    def given(batch: Batch) -> Mapping[str, Any]:
        images = np.asarray(batch.raw)
        if images.shape[-1] == GREY and channels == COLOUR:
            images = np.repeat(images, COLOUR, axis=-1)
        prepared: Mapping[str, Any] = processor(list(images), input_data_format="channels_last", return_tensors="pt")
        return prepared

    return given


def _waveforms(folder: Path, samples: Samples, name: str) -> Given:
    extractor = _loaded("AutoFeatureExtractor", folder, name)
    rate = samples.facts["preprocessing"]["sample_rate"]
    if extractor.sampling_rate != rate:
        raise UsageError(
            f"{name}: it takes recordings at {extractor.sampling_rate} Hz, the task has {rate} Hz; resample them in a "
            "'preprocess' function"
        )

    def given(batch: Batch) -> Mapping[str, Any]:
        prepared: Mapping[str, Any] = extractor(list(batch.raw), sampling_rate=rate, padding=True, return_tensors="pt")
        return prepared

    return given


def _text(folder: Path, model: Any, samples: Samples, name: str) -> Given:
    room = getattr(model.config, "max_position_embeddings", None)
    if same_tokenizer(folder / TOKENIZER_FILE, samples.data.file(TOKENIZER_FILE)):
        return _ids(model, samples, room, name)
    tokenizer = _loaded("AutoTokenizer", folder, name)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UsageError(
            f"{name}: {folder} has no tokenizer, and nothing tells that the task's own fits; save it there"
        )
    _check_vocabulary(len(tokenizer), model, name)
    if tokenizer.pad_token is None:
        raise UsageError(f"{name}: its tokenizer has no padding token; add one and save it again")
    most = min(tokenizer.model_max_length, room or tokenizer.model_max_length)

    def given(batch: Batch) -> Mapping[str, Any]:
        sentences = [str(sentence).replace(UNKNOWN, tokenizer.unk_token or UNKNOWN) for sentence in batch.raw]
        prepared: Mapping[str, Any] = tokenizer(
            sentences, padding=True, truncation=True, max_length=most, return_tensors="pt"
        )
        return prepared

    return given


def _ids(model: Any, samples: Samples, room: int | None, name: str) -> Given:
    _check_vocabulary(samples.facts["vocabulary"], model, name)
    length = samples.facts["preprocessing"]["length"]
    if room is not None and length > room:
        raise UsageError(f"{name}: it takes {room} tokens at most, the task has {length}; set task.length")
    padding = samples.facts["preprocessing"]["padding_id"]

    def given(batch: Batch) -> Mapping[str, Any]:
        ids = batch.inputs.astype(np.int64)
        return {"input_ids": ids, "attention_mask": (ids != padding).astype(np.int64)}

    return given


def _check_vocabulary(ids: int, model: Any, name: str) -> None:
    known = getattr(model.config, "vocab_size", None)
    if known is not None and ids > known:
        raise UsageError(f"{name}: the tokenizer has {ids} ids, the model knows {known}; they do not belong together")


def _loaded(kind: str, folder: Path, name: str, **settings: Any) -> Any:
    import transformers

    try:
        with quiet():
            return getattr(transformers, kind).from_pretrained(folder, **settings, **LOCAL)
    except Exception as error:  # as above
        what = {"AutoTokenizer": "tokenizer", "AutoImageProcessor": "image processor"}.get(kind, "feature extractor")
        raise UsageError(
            f"{name}: {folder} has no {what} that can be loaded ({first_line(error)}); save it there, or give a "
            "'preprocess' function"
        ) from error
