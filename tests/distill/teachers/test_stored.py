"""Answers that were given before: their forms, and whether they are for these samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.distill.teacher_config import StoredOutputs
from edgekd.distill.teachers.samples import Samples
from edgekd.distill.teachers.stored import fingerprint
from edgekd.errors import GateError
from edgekd.recipe import Task
from edgekd.tasks.raw import RawSamples
from tests.distill.teachers.small import (
    IMAGE_VIEWS,
    IMAGES,
    SEED,
    SENTENCES,
    TEST,
    TRAIN,
    WAVES,
    ask,
    refusal,
    samples_of,
    softmax,
)

COUNTS = {"train": TRAIN, "test": TEST}


def logits(count: int, split: str = "test") -> np.ndarray:
    return np.random.default_rng([len(split), count]).normal(0, 2, (count, 3)).astype(np.float32)


def fingerprints(task: Task = IMAGES) -> dict[str, np.ndarray]:
    raw = RawSamples(task, SEED)
    return {f"{split}_fingerprint": fingerprint(raw(split, 0, 0, count)) for split, count in COUNTS.items()}


def stored(folder: Path, task: Task = IMAGES, **arrays: Any) -> StoredOutputs:
    """A file with logits for both splits, changed by the arrays; None takes one out."""
    outputs = {f"{split}_outputs": logits(count, split) for split, count in COUNTS.items()}
    content = {**fingerprints(task), **outputs, **arrays}
    np.savez(folder / "outputs.npz", **{name: array for name, array in content.items() if array is not None})
    return StoredOutputs(kind="stored", file=folder / "outputs.npz")


@pytest.mark.parametrize("task", [IMAGES, WAVES, SENTENCES], ids=["images", "waves", "sentences"])
def test_stored_logits_are_given_back(task: Task, tmp_path: Path) -> None:
    if task.augment.views > 1:
        task = type(task)(**{**vars(task), "augment": type(task.augment)()})
    samples = samples_of(task)
    teacher = stored(tmp_path, task)
    found = ask(teacher, samples, samples.batch("train", 0, 7, 20))
    np.testing.assert_array_equal(found, logits(TRAIN, "train")[7:20])
    np.testing.assert_array_equal(ask(teacher, samples), logits(TEST)[:10])


def test_stored_probabilities(tmp_path: Path) -> None:
    probabilities = softmax(logits(TEST))
    found = ask(stored(tmp_path, test_outputs=None, test_probabilities=probabilities))
    np.testing.assert_allclose(found, np.log(probabilities[:10]), rtol=1e-5)


def test_the_likeliest_classes_share_the_rest_with_the_others(tmp_path: Path) -> None:
    classes = np.tile([2, 0], (TEST, 1))
    top = np.tile([0.7, 0.2], (TEST, 1))
    found = ask(stored(tmp_path, test_outputs=None, test_top_probabilities=top, test_top_classes=classes))
    np.testing.assert_allclose(np.exp(found), np.tile([0.2, 0.1, 0.7], (10, 1)), rtol=1e-5)
    one = ask(
        stored(
            tmp_path, test_outputs=None, test_top_probabilities=top[:, :1], test_top_classes=classes[:, :1]
        )
    )  # fmt: skip
    np.testing.assert_allclose(np.exp(one), np.tile([0.15, 0.15, 0.7], (10, 1)), rtol=1e-5)


def test_labels_alone(tmp_path: Path) -> None:
    labels = np.arange(TEST) % 3
    found = ask(stored(tmp_path, test_outputs=None, test_labels=labels))
    np.testing.assert_array_equal(found.argmax(axis=1), labels[:10])
    np.testing.assert_allclose(np.sort(found, axis=1)[:, :2], np.log(1e-6), rtol=1e-6)


def test_names_in_the_file_give_the_order(tmp_path: Path) -> None:
    found = ask(stored(tmp_path, classes=np.array(["bright", "dark", "grey"])))
    np.testing.assert_array_equal(found, logits(TEST)[:10, [1, 2, 0]])
    message = refusal(stored(tmp_path, classes=np.array(["cat", "dog", "cow"])))
    assert "(cat, dog, cow)" in message
    assert "(dark, grey, bright)" in message


def test_views_are_stored_each(tmp_path: Path) -> None:
    raw, samples = RawSamples(IMAGE_VIEWS, SEED), samples_of(IMAGE_VIEWS)
    outputs = np.stack([logits(TRAIN, f"view {view}") for view in range(3)])
    prints = np.stack([fingerprint(raw("train", view, 0, TRAIN)) for view in range(3)])
    teacher = stored(tmp_path, train_outputs=outputs, train_fingerprint=prints)
    np.testing.assert_array_equal(ask(teacher, samples, samples.batch("train", 2, 5, 9)), outputs[2, 5:9])
    prints[2, 8] += np.uint64(1)
    assert "training sample 8 in view 2" in refusal(
        stored(tmp_path, train_outputs=outputs, train_fingerprint=prints), samples
    )


def test_one_view_is_not_enough_for_several(tmp_path: Path) -> None:
    message = refusal(stored(tmp_path), samples_of(IMAGE_VIEWS))
    assert "one view" in message
    assert "has 3" in message


def test_fewer_rows_than_samples_are_refused(tmp_path: Path) -> None:
    prints = fingerprints()
    message = refusal(stored(tmp_path, train_outputs=logits(500), train_fingerprint=prints["train_fingerprint"][:500]))
    assert "(500,)" in message
    assert "600 training samples" in message
    batch = samples_of().batch("train", 0, 0, 4)
    assert "(500, 3)" in refusal(stored(tmp_path, train_outputs=logits(500)), batch=batch)


def test_another_order_is_noticed_and_the_first_sample_named(tmp_path: Path) -> None:
    prints = fingerprints()["test_fingerprint"]
    prints[[4, 9]] = prints[[9, 4]]
    message = refusal(stored(tmp_path, test_fingerprint=prints))
    assert "in another order" in message
    assert message.endswith("first at test sample 4")


def test_other_data_are_noticed(tmp_path: Path) -> None:
    raw = np.asarray(RawSamples(IMAGES, SEED)("train", 0, 0, TRAIN)).copy()
    raw[17, 0, 0, 0] ^= 1
    assert refusal(stored(tmp_path, train_fingerprint=fingerprint(raw))).endswith("first at training sample 17")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_outputs": None}, "exactly one of train_outputs, train_probabilities"),
        ({"test_probabilities": np.ones((TEST, 3)) / 3}, "exactly one of test_outputs"),
        ({"test_fingerprint": None}, "no test_fingerprint"),
        ({"test_outputs": None, "test_top_probabilities": np.ones((TEST, 1))}, "no test_top_classes"),
        ({"test_outputs": np.zeros((TEST, 4))}, "4 outputs"),
        ({"test_outputs": np.zeros((TEST, 3), dtype="U1")}, "<U1"),
        ({"test_outputs": None, "test_labels": np.full(TEST, 3)}, "classes [3] of test sample 0"),
        ({"test_outputs": None, "test_labels": np.full(TEST, -1)}, "classes [-1] of test sample 0"),
        ({"test_outputs": None, "test_labels": np.full(TEST, 0.5)}, "float64 classes"),
        ({"test_outputs": None, "test_probabilities": np.ones((TEST, 3))}, "no probabilities"),
        (
            {
                "test_outputs": None,
                "test_top_probabilities": np.full((TEST, 2), 0.4),
                "test_top_classes": np.full((TEST, 2), 1),
            },
            "are not different ones",
        ),
        (
            {
                "test_outputs": None,
                "test_top_probabilities": np.full((TEST, 2), 0.9),
                "test_top_classes": np.tile([0, 1], (TEST, 1)),
            },
            "no probabilities",
        ),
    ],
)
def test_what_does_not_hold_together_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refusal(stored(tmp_path, **changes))


def test_a_sample_that_is_not_finite_is_named(tmp_path: Path) -> None:
    bad = logits(TEST)
    bad[3, 1] = np.nan
    with pytest.raises(GateError, match="test sample 3 are not finite"):
        ask(stored(tmp_path, test_outputs=bad))
    with pytest.raises(GateError, match="test sample 3 are not finite"):
        ask(stored(tmp_path, test_outputs=None, test_probabilities=softmax(bad)))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x93NUMPY\x01\x00", b"text"])
def test_what_is_no_npz_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "outputs.npz"
    file.write_bytes(content)
    assert str(file) in refusal(StoredOutputs(kind="stored", file=file))


def test_a_file_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    teacher = stored(tmp_path)
    teacher.file.write_bytes(teacher.file.read_bytes()[:3000])
    assert "cannot be read as .npz" in refusal(teacher)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    teacher = stored(tmp_path, test_outputs=np.array([{"harm": 1}] * TEST, dtype=object))
    assert "cannot be read as .npz" in refusal(teacher)


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "outputs.npy", logits(4))
    assert "single array" in refusal(StoredOutputs(kind="stored", file=tmp_path / "outputs.npy"))


def test_numbers_of_a_regression_are_outputs_and_nothing_else(tmp_path: Path) -> None:
    samples: Samples = samples_of()
    samples.outputs = "regression"
    np.testing.assert_array_equal(ask(stored(tmp_path), samples), logits(TEST)[:10])
    message = refusal(stored(tmp_path, test_outputs=None, test_probabilities=softmax(logits(TEST))), samples)
    assert "exactly one of test_outputs;" in message


def test_a_fingerprint_is_that_of_the_content() -> None:
    import hashlib

    expected = int.from_bytes(hashlib.sha256("grün".encode()).digest()[:8], "little")
    assert fingerprint(["grün"]).tolist() == [expected]
    image = np.arange(12, dtype=np.uint8).reshape(2, 3, 2)
    assert fingerprint([image])[0] == fingerprint([image.copy(order="F")])[0]
    assert len(set(fingerprint(["a", "b", "a"]).tolist())) == 2
