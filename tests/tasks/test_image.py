import numpy as np
import pytest

from edgekd.errors import UsageError
from edgekd.recipe import ImageAugment, ImageTask
from edgekd.step import silent
from edgekd.tasks import Dataset, Split, image
from edgekd.tasks.dataset import Prepared


def task(augment: ImageAugment | None = None, mean: int = 100, std: float = 50.0) -> ImageTask:
    return ImageTask(
        kind="image-classification",
        source="some.module:function",
        mean=mean,
        std=std,
        augment=augment or ImageAugment(),
    )


def pictures(count: int = 4, height: int = 5, width: int = 7, channels: int = 3) -> np.ndarray:
    shape = (count, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def prepared(train: object, test: object | None = None, augment: ImageAugment | None = None) -> Prepared:
    test = train if test is None else test
    labels = [np.arange(len(part)) % 2 for part in (train, test)]
    data = Dataset(Split(train, labels[0]), Split(test, labels[1]), ("even", "odd"))
    return image.prepare(task(augment), data, np.random.default_rng(0), silent)


def refusal(train: object, test: object | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        prepared(train, test)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_pixel_becomes_its_distance_from_the_mean_in_steps_of_std() -> None:
    pixels = np.array([0, 100, 150, 255], dtype=np.uint8).reshape(1, 2, 2, 1)
    numbers = image.normalised(task(), pixels)
    assert numbers.dtype == np.float32
    np.testing.assert_allclose(numbers.ravel(), [-2.0, 0.0, 1.0, 3.1], rtol=1e-6)


def test_channels_come_first() -> None:
    images = pictures()
    numbers = prepared(images).test
    assert numbers.shape == (4, 3, 5, 7)
    for channel in range(3):
        expected = (images[2, 4, 6, channel] - 100.0) / 50.0
        assert numbers[2, channel, 4, 6] == pytest.approx(expected)


def test_the_first_view_is_the_image_itself() -> None:
    images = pictures()
    result = prepared(images, augment=ImageAugment(views=3, shift=2.0, noise=10.0))
    assert result.train.shape == (3, 4, 3, 5, 7)
    np.testing.assert_array_equal(result.train[0], image.normalised(task(), images))
    assert not np.array_equal(result.train[1], result.train[0])
    assert not np.array_equal(result.train[1], result.train[2])


def test_the_test_split_is_not_augmented() -> None:
    images = pictures()
    result = prepared(images, augment=ImageAugment(views=3, shift=2.0, rotate=90.0))
    np.testing.assert_array_equal(result.test, image.normalised(task(), images))


def test_golden_samples_are_raw_pixels() -> None:
    images = pictures(count=20)
    result = prepared(images)
    assert result.golden_raw.dtype == np.uint8
    np.testing.assert_array_equal(result.golden_raw, images[:16])


def test_preprocessing_says_the_numbers() -> None:
    described = prepared(pictures()).preprocessing
    assert (described["mean"], described["std"]) == (100, 50.0)


def test_whole_numbers_in_another_dtype_are_pixels() -> None:
    images = pictures()
    for dtype in (np.int64, np.float32):
        np.testing.assert_array_equal(prepared(images.astype(dtype)).test, prepared(images).test)


def test_refuses_nan_and_names_the_sample() -> None:
    images = pictures().astype(np.float32)
    images[2, 0, 0, 0] = np.nan
    message = refusal(images)
    assert "train sample 2" in message
    assert "NaN" in message


@pytest.mark.parametrize("value", [256.0, -1.0, 0.5])
def test_refuses_what_is_not_a_pixel_value(value: float) -> None:
    images = pictures().astype(np.float64)
    images[3, 1, 1, 1] = value
    assert "test sample 3" in refusal(pictures(), images)


def test_refuses_images_scaled_to_one() -> None:
    assert "0 to 255" in refusal(pictures() / 255.0)


@pytest.mark.parametrize(
    "images", [pictures()[..., 0], pictures()[0], list(pictures()[:2]) + list(pictures(height=6)[:2])]
)
def test_refuses_a_wrong_shape(images: object) -> None:
    assert "(N, height, width, channels)" in refusal(images)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_refuses_images_without_pixels(dtype: type) -> None:
    assert "train" in refusal(np.zeros((4, 0, 8, 1), dtype=dtype))


@pytest.mark.parametrize("other", [pictures(height=6), pictures(channels=1)])
def test_refuses_train_and_test_images_of_different_shapes(other: np.ndarray) -> None:
    message = refusal(pictures(), other)
    assert "(5, 7, 3)" in message
    assert str(other.shape[1:]) in message


def test_without_augmentation_a_view_is_the_image() -> None:
    picture = pictures()[0]
    view = image.augmented(task(), picture, np.random.default_rng(0))
    np.testing.assert_array_equal(view, picture)


@pytest.mark.parametrize("pixels", [1, 2])
def test_a_whole_pixel_shift_moves_the_image(upper_end: np.random.Generator, pixels: int) -> None:
    picture = pictures()[0]
    view = image.augmented(task(ImageAugment(shift=float(pixels))), picture, upper_end)
    np.testing.assert_allclose(view[pixels:, pixels:], picture[:-pixels, :-pixels], atol=1e-9)
    assert not view[:pixels].any()
    assert not view[:, :pixels].any()


def test_a_half_pixel_shift_interpolates(upper_end: np.random.Generator) -> None:
    picture = pictures()[0].astype(np.float64)
    view = image.augmented(task(ImageAugment(shift=0.5)), picture, upper_end)
    around = (picture[:-1, :-1] + picture[1:, :-1] + picture[:-1, 1:] + picture[1:, 1:]) / 4
    np.testing.assert_allclose(view[1:, 1:], around, atol=1e-9)


def test_a_quarter_turn_turns_the_image(upper_end: np.random.Generator) -> None:
    picture = pictures(height=7)[0]
    view = image.augmented(task(ImageAugment(rotate=90.0)), picture, upper_end)
    np.testing.assert_allclose(view[1:-1, 1:-1], np.rot90(picture, -1)[1:-1, 1:-1], atol=1e-9)


def test_a_zoom_moves_pixels_away_from_the_centre(upper_end: np.random.Generator) -> None:
    ramp = np.arange(7.0)[:, None, None].repeat(7, axis=1)
    view = image.augmented(task(ImageAugment(scale=0.5)), ramp, upper_end)
    np.testing.assert_allclose(view[:, 3, 0], 3 + (np.arange(7) - 3) / 1.5, atol=1e-9)


def test_views_stay_within_pixel_values() -> None:
    rng = np.random.default_rng(1)
    wild = task(ImageAugment(shift=3.0, rotate=180.0, scale=0.5, noise=200.0))
    views = np.stack([image.augmented(wild, picture, rng) for picture in pictures(count=20)])
    assert views.min() == 0.0
    assert views.max() == 255.0


def test_digits_are_8_bit_and_split_by_position() -> None:
    data = image.digits(task(), test_every=5)
    assert data.train.inputs.shape == (1437, 8, 8, 1)
    assert data.test.inputs.shape == (360, 8, 8, 1)
    assert data.train.inputs.dtype == np.uint8
    assert data.train.inputs.max() == 255
    assert data.labels == tuple("0123456789")
    assert set(np.asarray(data.test.labels)) == set(range(10))
