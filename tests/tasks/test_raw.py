"""Raw views are those that the model inputs were made of."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from edgekd.recipe import Task
from edgekd.tasks import audio, image, text
from edgekd.tasks.raw import RawSamples
from tests.distill.teachers.small import IMAGE_VIEWS, SEED, SENTENCES, TEST, TRAIN, WAVES, data_of, images, sentences


def inputs(task: Task, split: str = "train") -> np.ndarray:
    found: np.ndarray = np.load(data_of(task).file(f"{split}_inputs.npy"))
    return found


@pytest.mark.parametrize("view", [0, 1, 2])
def test_image_views_give_the_inputs_to_within_the_rounding_of_a_pixel(view: int) -> None:
    raw = RawSamples(IMAGE_VIEWS, SEED)("train", view, 40, 60)
    assert isinstance(raw, np.ndarray)
    assert (raw.dtype, raw.shape) == (np.uint8, (20, 6, 5, 2))
    expected = inputs(IMAGE_VIEWS)[view, 40:60]
    assert np.abs(image.normalised(IMAGE_VIEWS, raw) - expected).max() <= 0.5 / IMAGE_VIEWS.std + 1e-6


def test_the_first_view_is_the_sample_itself() -> None:
    data = images(IMAGE_VIEWS)
    np.testing.assert_array_equal(RawSamples(IMAGE_VIEWS, SEED)("train", 0, 0, TRAIN), data.train.inputs)
    np.testing.assert_array_equal(RawSamples(IMAGE_VIEWS, SEED)("test", 0, 0, TEST), data.test.inputs)
    found = RawSamples(SENTENCES, SEED)("train", 0, 3, 9)
    assert found == sentences(SENTENCES).train.inputs[3:9]


@pytest.mark.parametrize("view", [0, 1])
def test_recordings_give_the_features(view: int) -> None:
    raw = RawSamples(WAVES, SEED)("train", view, 10, 30)
    assert isinstance(raw, np.ndarray)
    assert (raw.dtype, raw.shape) == (np.float32, (20, 1000))
    preprocessing = data_of(WAVES).facts["preprocessing"]
    features = (audio.log_mel(WAVES, raw.astype(np.float64)) - preprocessing["mean"]) / preprocessing["std"]
    np.testing.assert_allclose(features, inputs(WAVES)[view, 10:30, 0], atol=1e-3)


@pytest.mark.parametrize("view", [0, 1])
def test_sentences_give_the_token_ids(view: int) -> None:
    raw = RawSamples(SENTENCES, SEED)("train", view, 0, 50)
    tokenizer = Tokenizer.from_file(str(data_of(SENTENCES).file(text.TOKENIZER_FILE)))
    tokenizer.add_special_tokens([text.UNKNOWN])
    np.testing.assert_array_equal(text.encode(tokenizer, list(raw)), inputs(SENTENCES)[view, :50])
    assert any(text.UNKNOWN in sentence for sentence in raw) == (view == 1)


@pytest.mark.parametrize("task", [IMAGE_VIEWS, WAVES, SENTENCES], ids=["images", "waves", "sentences"])
def test_a_sample_is_the_same_in_whatever_block_it_is_drawn(task: Task) -> None:
    raw = RawSamples(task, SEED)
    whole, part = raw("train", 1, 0, 12), raw("train", 1, 5, 7)
    np.testing.assert_array_equal(np.asarray(part), np.asarray(whole)[5:7])


def test_another_seed_draws_other_views() -> None:
    one, other = (np.asarray(RawSamples(IMAGE_VIEWS, seed)("train", 1, 0, 8)) for seed in (SEED, SEED + 1))
    assert (one != other).any()


def test_views_of_a_sample_differ_from_each_other() -> None:
    raw = RawSamples(IMAGE_VIEWS, SEED)
    assert (np.asarray(raw("train", 1, 0, 8)) != np.asarray(raw("train", 2, 0, 8))).any()
