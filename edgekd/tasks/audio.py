"""Audio: recordings to log-mel features."""

import re
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekd.errors import UsageError
from edgekd.recipe import AudioTask
from edgekd.step import Progress
from edgekd.tasks.dataset import GOLDEN_SAMPLES, Dataset, Prepared, Split, rng_of

LOG_OFFSET = 1e-6
FEATURES = "log-mel features, normalised"
FILE_NAME = re.compile(r"(?P<label>[^_]+)_.+_(?P<index>[0-9]+)\.wav")
LOUDEST = 2.0
"""Resampling may overshoot 1 a little; samples on the scale of integers go far beyond."""


def wav_folder(task: AudioTask, *, test_indices: int = 5) -> Dataset:
    """Read the folder `task.data` of `{label}_{speaker}_{index}.wav`: indices below `test_indices` are the test split.

    That is the official split of the Free Spoken Digit Dataset. Classes are the labels found, in sorted order.

    Raises UsageError for a folder without such files, and for the first file that is not mono 16-bit PCM at the task's
    sample rate.
    """
    data = task.data
    if data is None:
        raise UsageError("task.data: no folder given; add --set task.data=FOLDER with WAV files in it")
    if not data.is_dir():
        raise UsageError(f"task.data: {data} is not a folder; point it at the folder with the WAV files")
    files = sorted(data.glob("*.wav"))
    if not files:
        raise UsageError(f"task.data: no .wav file in {data}")
    parts = []
    for file in files:
        match = FILE_NAME.fullmatch(file.name)
        if match is None:
            raise UsageError(f"{file}: the name is not {{label}}_{{speaker}}_{{index}}.wav")
        parts.append((file, match["label"], int(match["index"])))
    labels = tuple(sorted({label for _, label, _ in parts}))

    def split(chosen: list[tuple[Path, str, int]]) -> Split:
        return Split(
            inputs=[read_wav(file, task.sample_rate) for file, _, _ in chosen],
            labels=np.array([labels.index(label) for _, label, _ in chosen], dtype=np.int64),
            names=[file.name for file, _, _ in chosen],
        )

    return Dataset(
        train=split([part for part in parts if part[2] >= test_indices]),
        test=split([part for part in parts if part[2] < test_indices]),
        labels=labels,
    )


def read_wav(file: Path, sample_rate: int) -> np.ndarray:
    """Read one mono 16-bit PCM file: int16, shape (samples,).

    Raises UsageError if the file is truncated, empty, not mono, not 16 bit, or of another sample rate.
    """
    try:
        with wave.open(str(file), "rb") as reader:
            channels, width = reader.getnchannels(), reader.getsampwidth()
            rate, frames = reader.getframerate(), reader.getnframes()
            content = reader.readframes(frames)
    except (wave.Error, EOFError, OSError) as error:
        raise UsageError(f"{file}: not a readable WAV file ({str(error) or 'it ends too early'})") from error
    if channels != 1:
        raise UsageError(f"{file}: {channels} channels; mix it down to mono")
    if width != 2:
        raise UsageError(f"{file}: {8 * width}-bit samples; convert it to 16-bit PCM")
    if rate != sample_rate:
        raise UsageError(f"{file}: {rate} Hz, the recipe says {sample_rate} Hz; resample it or set task.sample_rate")
    if frames == 0:
        raise UsageError(f"{file}: no samples in it")
    if len(content) != frames * width:
        raise UsageError(f"{file}: truncated, {len(content) // width} of {frames} samples are there")
    return np.frombuffer(content, dtype="<i2")


def prepare(task: AudioTask, data: Dataset, rng: np.random.Generator, progress: Progress) -> Prepared:
    """Check the waveforms, draw the views, compute features and normalise them by the training set's mean and std.

    Raises UsageError naming the split and the sample at fault.
    """
    train, test = check_waveforms("train", data.train), check_waveforms("test", data.test)
    samples = clip_samples(task)
    views = [_features(task, [fit_length(wave, samples) for wave in train])]
    mean, std = round(float(views[0].mean()), 4), round(float(views[0].std()), 4)
    if std == 0:
        raise UsageError("data: all training recordings have the same features; are they silent?")
    for view in range(1, task.augment.views):
        progress(view, task.augment.views, "views")
        drawn = [augmented(task, wave, rng_of(rng, view, index)) for index, wave in enumerate(train)]
        views.append(_features(task, drawn))
    validation = None if data.validation is None else check_waveforms("validation", data.validation)

    def normalised(features: np.ndarray) -> np.ndarray:
        return ((features - np.float32(mean)) / np.float32(std))[:, None]

    def plain(waves: list[np.ndarray]) -> np.ndarray:
        return normalised(_features(task, [fit_length(wave, samples) for wave in waves]))

    return Prepared(
        train=np.stack([normalised(view) for view in views]),
        test=plain(test),
        golden_raw=np.stack([fit_length(wave, samples) for wave in test[:GOLDEN_SAMPLES]]).astype(np.float32),
        preprocessing=describe(task, mean, std),
        validation=None if validation is None else plain(validation),
    )


def check_waveforms(split_name: str, split: Split) -> list[np.ndarray]:
    """The waveforms as float64 in [-1, 1], each of shape (samples,).

    Raises UsageError for one that is empty, not 1-D, of another dtype, or not finite, naming it.
    """
    waves = []
    for index, raw in enumerate(split.inputs):
        wave, name = np.asarray(raw), f"data: {split_name} {split.name(index)}"
        if wave.ndim != 1 or wave.size == 0:
            raise UsageError(f"{name} has shape {wave.shape}; give (samples,)")
        if wave.dtype != np.int16 and not np.issubdtype(wave.dtype, np.floating):
            raise UsageError(f"{name} is {wave.dtype}; give int16, or float in [-1, 1]")
        wave = as_float(wave)
        if not np.isfinite(wave).all():
            raise UsageError(f"{name} holds NaN or infinity")
        if np.abs(wave).max() > LOUDEST:
            raise UsageError(f"{name} has values up to {np.abs(wave).max():g}; give int16, or float in [-1, 1]")
        waves.append(wave)
    return waves


def _features(task: AudioTask, clips: Sequence[np.ndarray], block: int = 256) -> np.ndarray:
    return np.concatenate(
        [log_mel(task, np.stack(clips[start : start + block])) for start in range(0, len(clips), block)]
    )


def mel_filters(task: AudioTask) -> np.ndarray:
    """Triangular filters, evenly spaced on the HTK mel scale m = 2595 log10(1 + f / 700), each with peak 1.

    Returns float64, shape (n_fft // 2 + 1, n_mels), to multiply a power spectrum with.
    """
    edges_mel = np.linspace(_mel(task.f_min), _mel(task.f_max), task.n_mels + 2)
    edges = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins = np.arange(task.n_fft // 2 + 1) * (task.sample_rate / task.n_fft)
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rising, falling), 0.0, None)


def _mel(frequency: float) -> float:
    return 2595.0 * float(np.log10(1.0 + frequency / 700.0))


def clip_samples(task: AudioTask) -> int:
    return round(task.clip_seconds * task.sample_rate)


def fit_length(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Keep the first `samples`, or append zeros: shape (samples,)."""
    kept = waveform[:samples]
    return np.pad(kept, (0, samples - len(kept)))


def log_mel(task: AudioTask, waveforms: np.ndarray) -> np.ndarray:
    """ln(p + 1e-6), p the mel-weighted power spectrum of Hann-windowed frames (periodic window, no padding).

    waveforms: float in [-1, 1], shape (N, samples). Returns float32, shape (N, frames, n_mels).
    """
    window = np.hanning(task.win_length + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(waveforms, task.win_length, axis=-1)[:, :: task.hop_length]
    power = np.abs(np.fft.rfft(frames * window, n=task.n_fft)) ** 2
    features: np.ndarray = np.log(power @ mel_filters(task) + LOG_OFFSET).astype(np.float32)
    return features


def as_float(waveform: np.ndarray) -> np.ndarray:
    """int16 samples divided by 32768; float samples as they are: float64."""
    scale = 1.0 / 32768.0 if waveform.dtype == np.int16 else 1.0
    return waveform.astype(np.float64) * scale


def augmented(task: AudioTask, waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One random view of a float waveform, shape (samples,) in and (any length,) out."""
    augment = task.augment
    speed = 1.0 + rng.uniform(-augment.speed, augment.speed)
    positions = np.arange(0.0, len(waveform), speed)
    view = np.interp(positions, np.arange(len(waveform)), waveform)
    shift = round(rng.uniform(-augment.shift, augment.shift) * task.sample_rate)
    view = np.pad(view, (shift, 0)) if shift >= 0 else view[-shift:]
    view = fit_length(view, clip_samples(task)) * 10.0 ** (rng.uniform(-augment.gain, augment.gain) / 20.0)
    noisy: np.ndarray = view + rng.normal(0.0, 1.0, len(view)) * rng.uniform(0.0, augment.noise)
    return noisy


def describe(task: AudioTask, mean: float, std: float) -> dict[str, object]:
    """The whole way from samples to model input, as JSON, for whoever writes it again in an app."""
    return {
        "input": FEATURES,
        "steps": [
            f"mono samples at {task.sample_rate} Hz as numbers in [-1, 1) (int16 / 32768)",
            f"keep the first {clip_samples(task)} samples; append zeros to a shorter recording",
            f"frames of {task.win_length} samples, one every {task.hop_length}, without padding",
            f"periodic Hann window: 0.5 - 0.5 cos(2 pi n / {task.win_length})",
            f"power |DFT|^2 of {task.n_fft} points (zeros appended), bins 0 to {task.n_fft // 2}",
            f"{task.n_mels} triangular filters of peak 1 on m = 2595 log10(1 + f / 700), "
            f"corners evenly spaced from {task.f_min:g} to {task.f_max:g} Hz",
            f"natural logarithm of (power + {LOG_OFFSET:g})",
            f"subtract {mean}, divide by {std}",
        ],
        "sample_rate": task.sample_rate,
        "clip_samples": clip_samples(task),
        "win_length": task.win_length,
        "hop_length": task.hop_length,
        "n_fft": task.n_fft,
        "n_mels": task.n_mels,
        "f_min": task.f_min,
        "f_max": task.f_max,
        "mel_scale": "htk",
        "log_offset": LOG_OFFSET,
        "mean": mean,
        "std": std,
    }
