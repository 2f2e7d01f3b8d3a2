import dataclasses
import json
import math
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekd.errors import UsageError
from edgekd.recipe import AudioAugment, AudioTask, load_recipe
from edgekd.step import silent
from edgekd.tasks import Dataset, Split, audio
from edgekd.tasks.dataset import Prepared

SPOKEN: AudioTask = load_recipe("spoken-digits").recipe.task


def with_augment(**changes: float) -> AudioTask:
    return dataclasses.replace(SPOKEN, augment=AudioAugment(**changes))


def mel(frequency: float) -> float:
    return 2595.0 * math.log10(1.0 + frequency / 700.0)


def corners(task: AudioTask) -> list[float]:
    """The frequencies between which the filters rise and fall, f_min and f_max included."""
    step = (mel(task.f_max) - mel(task.f_min)) / (task.n_mels + 1)
    mels = [mel(task.f_min) + step * position for position in range(task.n_mels + 2)]
    return [700.0 * (10.0 ** (one / 2595.0) - 1.0) for one in mels]


def triangle(frequency: float, low: float, peak: float, high: float) -> float:
    if low < frequency <= peak:
        return (frequency - low) / (peak - low)
    return (high - frequency) / (high - peak) if peak < frequency < high else 0.0


def tone(frequency: float, samples: int = 8000, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(samples) / SPOKEN.sample_rate)


def recordings(count: int = 6, samples: int = 6000) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(-20000, 20000, samples).astype(np.int16) for _ in range(count)]


def prepared(train: list[np.ndarray], task: AudioTask = SPOKEN, names: tuple[str, ...] = ()) -> Prepared:
    split = Split(train, np.arange(len(train)) % 2, names)
    return audio.prepare(task, Dataset(split, Split(recordings(), np.arange(6) % 2), ("a", "b")), generator(), silent)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def write_wav(
    file: Path, samples: np.ndarray | None = None, rate: int = 8000, channels: int = 1, width: int = 2
) -> Path:
    content = recordings(1, 400)[0] if samples is None else samples
    with wave.open(str(file), "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(rate)
        writer.writeframes(content.astype("<i2").tobytes())
    return file


def cut(file: Path, keep: int) -> None:
    file.write_bytes(write_wav(file).read_bytes()[:keep])


def folder_task(folder: Path | None) -> AudioTask:
    return dataclasses.replace(SPOKEN, data=folder)


def refusal(task: AudioTask) -> str:
    with pytest.raises(UsageError) as caught:
        audio.wav_folder(task)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("position", [2, 8, 15, 25, 33, 39])
def test_a_tone_peaks_in_the_filter_whose_centre_is_nearest(position: int) -> None:
    edges = corners(SPOKEN)
    frequency = edges[position + 1] + 0.2 * (edges[position + 2] - edges[position + 1])
    features = audio.log_mel(SPOKEN, tone(frequency)[None])[0]
    assert set(features.argmax(axis=1)) == {position}


def test_features_of_a_tone_match_a_plain_fourier_sum() -> None:
    samples, edges = tone(1234.0), corners(SPOKEN)
    features = audio.log_mel(SPOKEN, samples[None])[0]
    for frame in (0, 7, 48):
        place = np.arange(256)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * place / 256)
        excerpt = samples[160 * frame : 160 * frame + 256] * window
        bins = np.arange(257)
        power = [abs((excerpt * np.exp(-2j * np.pi * one * place / 512)).sum()) ** 2 for one in bins]
        for position in range(SPOKEN.n_mels):
            weights = [triangle(one * 8000 / 512, *edges[position : position + 3]) for one in bins]
            expected = math.log(np.dot(weights, power) + 1e-6)
            assert features[frame, position] == pytest.approx(expected, abs=1e-4)


def test_silence_is_the_logarithm_of_the_offset() -> None:
    features = audio.log_mel(SPOKEN, np.zeros((1, 8000)))
    np.testing.assert_allclose(features, math.log(1e-6), rtol=1e-6)


@pytest.mark.parametrize(("window", "hop", "frames"), [(256, 160, 49), (256, 256, 31), (8000, 1, 1), (400, 200, 39)])
def test_frames_are_those_that_fit_without_padding(window: int, hop: int, frames: int) -> None:
    task = dataclasses.replace(SPOKEN, win_length=window, hop_length=hop, n_fft=8192, n_mels=4)
    assert audio.log_mel(task, np.zeros((2, 8000))).shape == (2, frames, 4)


def test_no_filter_of_the_built_in_recipe_is_empty() -> None:
    filters = audio.mel_filters(SPOKEN)
    assert filters.shape == (257, 40)
    assert (filters.max(axis=0) > 0.5).all()


def test_filters_have_peak_one_and_cover_the_range() -> None:
    fine = dataclasses.replace(SPOKEN, n_fft=65536, f_min=100.0, f_max=3500.0)
    filters, edges = audio.mel_filters(fine), corners(fine)
    frequencies = np.arange(32769) * 8000 / 65536
    assert filters.max() <= 1.0
    assert (filters.max(axis=0) > 0.99).all()
    between = (frequencies > edges[1]) & (frequencies < edges[-2])
    np.testing.assert_allclose(filters[between].sum(axis=1), 1.0, atol=1e-9)
    inside = (frequencies > 100.0) & (frequencies < 3500.0)
    assert (filters[inside].sum(axis=1) > 0).all()
    assert not filters[~inside].any()


def test_int16_is_a_share_of_full_scale() -> None:
    numbers = audio.as_float(np.array([-32768, 0, 16384], dtype=np.int16))
    np.testing.assert_array_equal(numbers, [-1.0, 0.0, 0.5])


def test_length_is_cut_or_filled_with_zeros() -> None:
    np.testing.assert_array_equal(audio.fit_length(np.array([1, 2, 3]), 2), [1, 2])
    np.testing.assert_array_equal(audio.fit_length(np.array([1, 2, 3]), 5), [1, 2, 3, 0, 0])


def test_reads_recordings_and_splits_them_by_index(tmp_path: Path) -> None:
    written = {}
    for label in ("three", "one"):
        for index in (0, 4, 5, 12):
            name = f"{label}_ann_{index}.wav"
            written[name] = recordings(1, 300 + index)[0] + index
            write_wav(tmp_path / name, written[name])
    data = audio.wav_folder(folder_task(tmp_path))
    assert data.labels == ("one", "three")
    assert set(data.test.names) == {name for name in written if name.endswith(("_0.wav", "_4.wav"))}
    assert set(data.train.names) == written.keys() - set(data.test.names)
    for split in (data.train, data.test):
        for name, samples, label in zip(split.names, split.inputs, split.labels, strict=True):
            np.testing.assert_array_equal(samples, written[name])
            assert data.labels[label] == name.partition("_")[0]


def test_the_border_of_the_split_can_be_moved(tmp_path: Path) -> None:
    for index in range(4):
        write_wav(tmp_path / f"a_ann_{index}.wav")
    data = audio.wav_folder(folder_task(tmp_path), test_indices=1)
    assert data.test.names == ["a_ann_0.wav"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: cut(file, 500), "truncated"),
        (lambda file: cut(file, 20), "WAV"),
        (lambda file: cut(file, 0), "WAV"),
        (lambda file: file.write_bytes(b"hello, this is not audio" * 9), "WAV"),
        (lambda file: write_wav(file, channels=2), "mono"),
        (lambda file: write_wav(file, width=1), "8-bit"),
        (lambda file: write_wav(file, rate=16000), "16000 Hz"),
        (lambda file: write_wav(file, np.zeros(0)), "no samples"),
    ],
    ids=["truncated", "half a header", "empty", "text", "stereo", "8-bit", "rate", "no samples"],
)
def test_refuses_a_file_it_cannot_use_by_name(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    write_wav(tmp_path / "0_ann_0.wav")
    damage(tmp_path / "1_bob_7.wav")
    message = refusal(folder_task(tmp_path))
    assert "1_bob_7.wav" in message
    assert said in message


@pytest.mark.parametrize("name", ["noise.wav", "3_ann.wav", "3_ann_x.wav", "_ann_0.wav", "3_5.wav"])
def test_refuses_another_file_name(tmp_path: Path, name: str) -> None:
    write_wav(tmp_path / name)
    message = refusal(folder_task(tmp_path))
    assert name in message
    assert "{label}_{speaker}_{index}.wav" in message


def test_refuses_an_empty_folder(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(folder_task(tmp_path))


def test_refuses_a_missing_folder(tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in refusal(folder_task(tmp_path / "nowhere"))


def test_says_how_to_give_the_folder() -> None:
    assert "--set task.data=" in refusal(folder_task(None))


def test_prepared_shapes_and_normalisation() -> None:
    result = prepared(recordings(5), with_augment(views=3, shift=0.1, speed=0.1, gain=6.0))
    assert result.train.shape == (3, 5, 1, 49, 40)
    assert result.test.shape == (6, 1, 49, 40)
    assert result.train.dtype == result.test.dtype == np.float32
    assert result.golden_raw.shape == (6, 8000)
    assert result.train[0].mean() == pytest.approx(0.0, abs=1e-3)
    assert result.train[0].std() == pytest.approx(1.0, abs=1e-3)
    assert not np.array_equal(result.train[1], result.train[2])


def test_what_describe_says_is_enough_to_compute_the_features() -> None:
    result = prepared(recordings(5))
    said = json.loads(json.dumps(result.preprocessing))
    assert said["mel_scale"] == "htk"
    frames = 1 + (said["clip_samples"] - said["win_length"]) // said["hop_length"]
    place = np.arange(said["win_length"])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * place / said["win_length"])
    bins = np.arange(said["n_fft"] // 2 + 1)
    fourier = np.exp(-2j * np.pi * np.outer(place, bins) / said["n_fft"])
    step = (mel(said["f_max"]) - mel(said["f_min"])) / (said["n_mels"] + 1)
    edges = [700 * (10 ** ((mel(said["f_min"]) + step * one) / 2595) - 1) for one in range(said["n_mels"] + 2)]
    hertz = bins * said["sample_rate"] / said["n_fft"]
    filters = [[triangle(one, *edges[position : position + 3]) for position in range(said["n_mels"])] for one in hertz]
    for samples, found in zip(recordings(), result.test, strict=True):
        clip = np.zeros(said["clip_samples"])
        clip[: len(samples)] = samples[: said["clip_samples"]] / 32768
        starts = said["hop_length"] * np.arange(frames)
        power = np.abs(np.stack([clip[one : one + said["win_length"]] * window for one in starts]) @ fourier) ** 2
        features = (np.log(power @ np.array(filters) + said["log_offset"]) - said["mean"]) / said["std"]
        np.testing.assert_allclose(found[0], features, atol=1e-5)


def test_golden_samples_are_what_the_app_has() -> None:
    result = prepared(recordings(5))
    np.testing.assert_allclose(result.golden_raw[3, :6000], recordings()[3] / 32768, atol=1e-7)
    assert not result.golden_raw[3, 6000:].any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_a_waveform_that_is_not_finite_by_its_sample(value: float) -> None:
    waves = [one / 32768 for one in recordings(4)]
    waves[2][100] = value
    with pytest.raises(UsageError, match="train sample 2 holds NaN"):
        prepared(waves)


def test_a_sample_at_fault_is_called_by_its_name() -> None:
    waves = [*recordings(1), np.full(10, np.nan)]
    with pytest.raises(UsageError, match=r"1_bob_7\.wav"):
        prepared(waves, names=("0_ann_0.wav", "1_bob_7.wav"))


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 10)), np.zeros(0), np.zeros(10, dtype=np.uint8), np.zeros(10, dtype=np.int32)]
)
def test_refuses_what_is_not_a_waveform(wrong: np.ndarray) -> None:
    with pytest.raises(UsageError, match="train sample 1"):
        prepared([*recordings(1), wrong])


def test_refuses_floats_on_the_scale_of_int16() -> None:
    with pytest.raises(UsageError, match="train sample 1"):
        prepared([recordings(1)[0] / 32768, recordings(1)[0].astype(np.float64)])


def test_refuses_a_training_set_of_silence() -> None:
    with pytest.raises(UsageError):
        prepared([np.zeros(8000, dtype=np.int16)] * 4)


def test_without_augmentation_a_view_is_the_recording() -> None:
    samples = tone(300.0)
    np.testing.assert_allclose(audio.augmented(with_augment(), samples, generator()), samples, atol=1e-12)


def test_a_shift_delays_the_recording(upper_end: np.random.Generator) -> None:
    samples = tone(300.0)
    view = audio.augmented(with_augment(shift=0.1), samples, upper_end)
    assert not view[:800].any()
    np.testing.assert_allclose(view[800:], samples[:7200], atol=1e-12)


def test_a_gain_is_in_decibels(upper_end: np.random.Generator) -> None:
    samples = tone(300.0)
    view = audio.augmented(with_augment(gain=6.0), samples, upper_end)
    np.testing.assert_allclose(view[:7000], samples[:7000] * 10**0.3, atol=1e-12)


def test_speed_raises_the_pitch(upper_end: np.random.Generator) -> None:
    view = audio.augmented(with_augment(speed=0.25), tone(400.0), upper_end)
    assert np.abs(np.fft.rfft(view[:6000])).argmax() * 8000 / 6000 == pytest.approx(500.0, abs=2.0)


def test_noise_is_a_share_of_full_scale(upper_end: np.random.Generator) -> None:
    view = audio.augmented(with_augment(noise=0.25), np.zeros(8000), upper_end)
    np.testing.assert_array_equal(view, np.full(8000, 0.25))
