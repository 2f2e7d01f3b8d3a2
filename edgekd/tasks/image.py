"""Images: raw 8-bit pixels to normalised numbers."""

import numpy as np
from scipy.ndimage import affine_transform

from edgekd.errors import UsageError
from edgekd.recipe import ImageTask
from edgekd.step import Progress
from edgekd.tasks.dataset import GOLDEN_SAMPLES, Dataset, Prepared, Split, rng_of


def digits(task: ImageTask, *, test_every: int = 5) -> Dataset:
    """scikit-learn's 1,797 bundled 8x8 digits as 8-bit grey images; each `test_every`-th image is the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    test = np.arange(len(images)) % test_every == 0

    def split(chosen: np.ndarray) -> Split:
        return Split(images[chosen], bunch.target[chosen].astype(np.int64))

    return Dataset(split(~test), split(test), tuple(str(name) for name in bunch.target_names))


def prepare(task: ImageTask, data: Dataset, rng: np.random.Generator, progress: Progress) -> Prepared:
    """Check the images, draw the views, normalise. Raises UsageError naming the split and the sample at fault."""
    train, test = check_images("train", data.train), check_images("test", data.test)
    validation = None if data.validation is None else check_images("validation", data.validation)
    for name, images in (("test", test), ("validation", validation)):
        if images is not None and train.shape[1:] != images.shape[1:]:
            raise UsageError(
                f"data: train images are {train.shape[1:]}, {name} images {images.shape[1:]}; make them alike"
            )
    views = [normalised(task, train)]
    for view in range(1, task.augment.views):
        progress(view, task.augment.views, "views")
        drawn = [augmented(task, one, rng_of(rng, view, index)) for index, one in enumerate(train)]
        views.append(normalised(task, np.stack(drawn)))
    return Prepared(
        train=np.stack(views),
        test=normalised(task, test),
        golden_raw=test[:GOLDEN_SAMPLES],
        preprocessing={"input": "raw pixels", "range": [0, 255], "mean": task.mean, "std": task.std},
        validation=None if validation is None else normalised(task, validation),
    )


def check_images(split_name: str, split: Split) -> np.ndarray:
    """The images as uint8, shape (N, height, width, channels).

    Whole numbers of 0 to 255 in another dtype are taken too. Raises UsageError for anything else, naming the sample.
    """
    try:
        images = np.asarray(split.inputs)
    except ValueError:
        images = np.empty(0, dtype=object)
    if images.dtype == object or images.ndim != 4:
        raise UsageError(
            f"data: {split_name} images have shape {images.shape}; give one array (N, height, width, channels)"
        )
    if images.size == 0:
        raise UsageError(f"data: {split_name} images have shape {images.shape}: no pixels")
    if images.dtype == np.uint8:
        return images
    for index, image in enumerate(images):
        if not np.isfinite(image).all():
            raise UsageError(f"data: {split_name} {split.name(index)} holds NaN or infinity")
        if (image != np.round(image)).any() or image.min() < 0 or image.max() > 255:
            raise UsageError(
                f"data: {split_name} {split.name(index)} has values of {image.min():g} to {image.max():g}; "
                "give raw pixels, whole numbers of 0 to 255"
            )
    return images.astype(np.uint8)


def normalised(task: ImageTask, images: np.ndarray) -> np.ndarray:
    """(p - mean) / std: images of shape (N, height, width, channels) to float32 of (N, channels, height, width)."""
    numbers = (images.astype(np.float32) - task.mean) / np.float32(task.std)
    return np.ascontiguousarray(numbers.transpose(0, 3, 1, 2))


def augmented(task: ImageTask, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One random view of an image, float64, shape (height, width, channels), pixel values of 0 to 255."""
    augment = task.augment
    angle = np.deg2rad(rng.uniform(-augment.rotate, augment.rotate))
    zoom = 1.0 + rng.uniform(-augment.scale, augment.scale)
    shift = rng.uniform(-augment.shift, augment.shift, 2)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    centre = (np.array(image.shape[:2]) - 1) / 2
    offset = centre - matrix @ (centre + shift)
    view = np.stack(
        [
            affine_transform(channel, matrix, offset, order=1)
            for channel in np.moveaxis(image.astype(np.float64), -1, 0)
        ],
        axis=-1,
    )
    return np.clip(view + rng.normal(0.0, 1.0, view.shape) * augment.noise, 0.0, 255.0)
