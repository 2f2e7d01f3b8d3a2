"""Folders that transformers saved, as teachers: sentences, images, recordings."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from edgekd.distill.teacher_config import TransformersFolder
from edgekd.distill.teachers.samples import Samples
from edgekd.errors import GateError
from edgekd.recipe import ImageTask, TextTask
from tests.distill.teachers.small import (
    HERE,
    IMAGES,
    LABELS,
    SENTENCES,
    WAVES,
    ask,
    data_of,
    model_inputs,
    refusal,
    samples_of,
)

DIGITS = ImageTask(kind="image-classification", source="edgekd.tasks.image:digits")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


def teacher(folder: Path, **settings: Any) -> TransformersFolder:
    return TransformersFolder(kind="transformers", folder=folder, **settings)


def named(labels: tuple[str, ...]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: at for at, label in enumerate(labels)}}


def bert(folder: Path, vocabulary: int, labels: dict[str, Any] | None = None, room: int = 16) -> Any:
    """A tiny BERT with weights large enough that its answers differ."""
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=room,
            initializer_range=0.5,
            **(labels or named(LABELS)),
        )
    ).eval()
    model.save_pretrained(folder)
    return model


def task_tokenizer() -> Path:
    return data_of(SENTENCES).file("tokenizer.json")


def with_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)


def other_tokenizer() -> Tokenizer:
    """The same words with other ids."""
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace

    words = sorted(Tokenizer.from_file(str(task_tokenizer())).get_vocab(), reverse=True)
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), Whitespace()
    return tokenizer


@torch.no_grad()
def logits(model: Any, ids: np.ndarray, padding: int) -> np.ndarray:
    given = torch.from_numpy(ids.astype(np.int64))
    found: np.ndarray = model(input_ids=given, attention_mask=(given != padding).long()).logits.numpy()
    return found


def test_with_the_task_s_tokenizer_it_takes_the_task_s_ids(tmp_path: Path) -> None:
    model = bert(tmp_path, 50)
    shutil.copy(task_tokenizer(), tmp_path / "tokenizer.json")
    samples = samples_of(SENTENCES)
    batch = samples.batch("train", 1, 0, 20)
    padding = samples.facts["preprocessing"]["padding_id"]
    found = ask(teacher(tmp_path), samples, batch)
    np.testing.assert_allclose(found, logits(model, batch.inputs, padding), atol=1e-5)
    assert found.std(axis=0).min() > 0.01


def test_with_another_tokenizer_it_reads_the_sentences_itself(tmp_path: Path) -> None:
    """Both views: what a view drops is unknown to its own tokenizer as well."""
    model, tokenizer = bert(tmp_path, 50), other_tokenizer()
    with_tokenizer(tmp_path, tokenizer)
    samples = samples_of(SENTENCES)
    theirs = Tokenizer.from_file(str(task_tokenizer()))
    for view in (0, 1):
        batch = samples.batch("train", view, 0, 20)
        words = [[theirs.id_to_token(token) for token in row] for row in batch.inputs.tolist()]
        ids = np.array([[tokenizer.token_to_id(word) for word in row] for row in words])
        expected = logits(model, ids, tokenizer.token_to_id("[PAD]"))
        np.testing.assert_allclose(ask(teacher(tmp_path), samples, batch), expected, atol=1e-4)


def test_classes_are_mapped_by_the_names_in_the_folder(tmp_path: Path) -> None:
    model = bert(tmp_path, 50, named(("bright", "dark", "grey")))
    shutil.copy(task_tokenizer(), tmp_path / "tokenizer.json")
    samples = samples_of(SENTENCES)
    padding = samples.facts["preprocessing"]["padding_id"]
    batch = samples.batch("test", 0, 0, 10)
    expected = logits(model, batch.inputs, padding)[:, [1, 2, 0]]
    np.testing.assert_allclose(ask(teacher(tmp_path), samples, batch), expected, atol=1e-5)


def test_names_that_nobody_gave_do_not_count(tmp_path: Path) -> None:
    bert(tmp_path, 50, {"num_labels": 3})
    shutil.copy(task_tokenizer(), tmp_path / "tokenizer.json")
    samples = samples_of(SENTENCES)
    plain, turned = ask(teacher(tmp_path), samples), ask(teacher(tmp_path, labels=LABELS[::-1]), samples)
    np.testing.assert_array_equal(plain[:, ::-1], turned)


@pytest.mark.parametrize("labels", [("cat", "dog", "cow"), ("dark", "grey"), ("dark", "grey", "bright", "white")])
def test_other_classes_are_refused_with_both_lists(labels: tuple[str, ...], tmp_path: Path) -> None:
    bert(tmp_path, 50, named(labels))
    shutil.copy(task_tokenizer(), tmp_path / "tokenizer.json")
    message = refusal(teacher(tmp_path), samples_of(SENTENCES))
    assert f"({', '.join(labels)})" in message
    assert "(dark, grey, bright)" in message


def test_a_tokenizer_of_more_words_than_the_model_is_refused(tmp_path: Path) -> None:
    bert(tmp_path, 10)
    shutil.copy(task_tokenizer(), tmp_path / "tokenizer.json")
    assert "the model knows 10; they do not belong together" in refusal(teacher(tmp_path), samples_of(SENTENCES))
    with_tokenizer(tmp_path, other_tokenizer())
    assert "the model knows 10; they do not belong together" in refusal(teacher(tmp_path), samples_of(SENTENCES))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    bert(tmp_path, 50)
    assert "no tokenizer" in refusal(teacher(tmp_path), samples_of(SENTENCES))


def test_more_tokens_than_it_has_room_for_are_refused(tmp_path: Path) -> None:
    bert(tmp_path, 50, room=6)
    shutil.copy(task_tokenizer(), tmp_path / "tokenizer.json")
    assert "6 tokens at most, the task has 8" in refusal(teacher(tmp_path), samples_of(SENTENCES))


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    model = bert(tmp_path, 50)
    model.bert.save_pretrained(tmp_path)
    assert "it was not trained as a classifier" in refusal(teacher(tmp_path), samples_of(SENTENCES))


def test_weights_that_are_not_finite_name_the_sample(tmp_path: Path) -> None:
    bert(tmp_path, 50)
    shutil.copy(task_tokenizer(), tmp_path / "tokenizer.json")
    state = load_file(tmp_path / "model.safetensors")
    state["classifier.bias"][1] = float("nan")
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(GateError, match="test sample 0 are not finite"):
        ask(teacher(tmp_path), samples_of(SENTENCES))


@pytest.mark.parametrize("damage", ["none", "config", "weights", "pickle"])
def test_what_is_no_such_folder_is_refused(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    if damage != "none":
        model = bert(folder, 50)
        weights = folder / "model.safetensors"
        if damage == "config":
            (folder / "config.json").write_text("{")
        elif damage == "weights":
            weights.write_bytes(weights.read_bytes()[:500])
        else:
            weights.unlink()
            torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert str(folder) in refusal(teacher(folder), samples_of(SENTENCES))


def test_without_a_processor_images_are_the_student_s_inputs(tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        num_channels=2, embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", **named(LABELS)
    )
    model = ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(torch.from_numpy(model_inputs())).logits.numpy()
    np.testing.assert_allclose(ask(teacher(tmp_path)), expected, atol=1e-5)


def test_with_a_processor_it_sees_the_raw_images(tmp_path: Path) -> None:
    """Grey pictures for a model of three channels, at its own normalisation."""
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        initializer_range=0.5, **named(tuple("0123456789")),
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    samples = Samples(data_of(DIGITS), DIGITS, 0)
    batch = samples.batch("test", 0, 0, 6)
    pixels = np.repeat(np.asarray(batch.raw), 3, axis=-1).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy((pixels / 255 - 0.5) / 0.5)).logits.numpy()
    np.testing.assert_allclose(ask(teacher(tmp_path), samples, batch), expected, atol=1e-4)


def wav2vec(folder: Path, rate: int) -> Any:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8),
        conv_stride=(5, 4), conv_kernel=(10, 4), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        classifier_proj_size=8, **named(LABELS),
    )  # fmt: skip
    model = Wav2Vec2ForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=rate, do_normalize=False).save_pretrained(folder)
    return model


def test_with_a_feature_extractor_it_hears_the_raw_recordings(tmp_path: Path) -> None:
    model, samples = wav2vec(tmp_path, 1000), samples_of(WAVES)
    batch = samples.batch("train", 1, 0, 6)
    with torch.no_grad():
        expected = model(torch.from_numpy(np.asarray(batch.raw))).logits.numpy()
    np.testing.assert_allclose(ask(teacher(tmp_path), samples, batch), expected, atol=1e-4)


def test_recordings_at_another_rate_are_refused(tmp_path: Path) -> None:
    wav2vec(tmp_path, 16000)
    assert "16000 Hz, the task has 1000 Hz" in refusal(teacher(tmp_path), samples_of(WAVES))


def test_a_preprocessing_takes_the_place_of_its_own(tmp_path: Path) -> None:
    bert(tmp_path, 50)
    samples = samples_of(SENTENCES)
    found = ask(teacher(tmp_path, preprocess=f"{HERE}:first_ids"), samples)
    assert found.shape == (10, 3)
    assert np.ptp(found, axis=0).max() == 0


def test_a_text_task_is_needed_for_a_text_model(tmp_path: Path) -> None:
    bert(tmp_path, 50)
    assert "cannot be opened as AutoModelForImageClassification" in refusal(teacher(tmp_path), samples_of(IMAGES))


def test_a_given_tokenizer_is_known_again_by_its_content(tmp_path: Path) -> None:
    """The task takes the folder's own tokenizer.json: then its ids are the model's."""
    model = bert(tmp_path, 50)
    with_tokenizer(tmp_path, other_tokenizer())
    task = TextTask(
        kind="text-classification", source=f"{HERE}:sentences", length=8, tokenizer=tmp_path / "tokenizer.json"
    )  # fmt: skip
    samples = samples_of(task)
    batch = samples.batch("test", 0, 0, 10)
    expected = logits(model, batch.inputs, samples.facts["preprocessing"]["padding_id"])
    np.testing.assert_allclose(ask(teacher(tmp_path), samples, batch), expected, atol=1e-5)
    assert "raw" not in vars(batch)
