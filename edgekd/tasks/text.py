"""Text: sentences to token ids."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.config import read_text
from edgekd.errors import UsageError, first_line
from edgekd.recipe import TextTask
from edgekd.step import Progress
from edgekd.tasks.dataset import GOLDEN_SAMPLES, Dataset, Prepared, Split, rng_of
from edgekd.tasks.labels import UNLABELLED

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PADDING, UNKNOWN = "[PAD]", "[UNK]"
PADDING_NAMES = (PADDING, "<pad>", "<PAD>")
TOKENIZER_FILE = "tokenizer.json"
NONE = "-"
"""Written where no label holds."""


def tsv_folder(task: TextTask, *, names: Sequence[str] = ()) -> Dataset:
    """Read `train.tsv`, `test.tsv` and, if it is there, `validation.tsv` of the folder `task.data`.

    One `sentence<TAB>label` a line, no header; in train.tsv the label may be left out. Classes are the labels found, in
    sorted order, whole numbers by their value; `names` gives them readable names in that order. For a multi-label task
    a line has all labels that hold, between commas, or a `-` for none. For a regression it has its numbers between
    commas, and `names` says what they are.

    Raises UsageError for a folder without these files, and for the first line that is not a sentence and a label.
    """
    if task.data is None:
        raise UsageError("task.data: no folder given; add --set task.data=FOLDER with train.tsv and test.tsv in it")
    if not task.data.is_dir():
        raise UsageError(f"task.data: {task.data} is not a folder; point it at the folder with the TSV files")
    files = {name: task.data / f"{name}.tsv" for name in ("train", "validation", "test")}
    rows = {name: _read_tsv(file) for name, file in files.items() if name != "validation" or file.is_file()}
    written = [label for split in rows.values() for _, label, _ in split if label]
    if task.outputs == "regression":
        found, encode = list(names), _numbers_of(len(names))
    else:
        several = task.outputs == "multi-label"
        found = _in_order({part for label in written for part in (_parts(label) if several else [label])})
        if names and len(names) != len(found):
            raise UsageError(f"task.args.names: {len(names)} names for the {len(found)} labels {', '.join(found)}")
        encode = _set_of(found) if several else _class_of(found)

    def split(name: str) -> Split:
        return Split(
            inputs=[sentence for sentence, _, _ in rows[name]],
            labels=np.array([encode(label, f"{files[name]}, {place}") for _, label, place in rows[name]]),
            names=[place for _, _, place in rows[name]],
        )

    return Dataset(
        split("train"), split("test"), tuple(names or found), split("validation") if "validation" in rows else None
    )


def _class_of(classes: Sequence[str]) -> Callable[[str, str], Any]:
    return lambda label, place: classes.index(label) if label else UNLABELLED


def _set_of(names: Sequence[str]) -> Callable[[str, str], Any]:
    def encode(label: str, place: str) -> list[int]:
        held = _parts(label)
        return [int(name in held) if label else UNLABELLED for name in names]

    return encode


def _numbers_of(count: int) -> Callable[[str, str], Any]:
    def encode(label: str, place: str) -> list[float]:
        try:
            numbers = [float(part) for part in label.split(",")] if label else [np.nan] * count
        except ValueError:
            raise UsageError(f"{place}: '{label}' is not a number, or numbers between commas") from None
        if len(numbers) != count:
            raise UsageError(f"{place}: {len(numbers)} numbers; task.args.names has {count} names for them")
        return numbers

    return encode


def _parts(label: str) -> list[str]:
    return [part.strip() for part in label.split(",") if part.strip()] if label != NONE else []


def _in_order(labels: Iterable[str]) -> list[str]:
    numbers = all(re.fullmatch("-?[0-9]+", label) for label in labels)
    return sorted(labels, key=lambda label: (int(label) if numbers else 0, label))


def _read_tsv(file: Path) -> list[tuple[str, str, str]]:
    """Sentence, label and place of every line."""
    rows = []
    for number, line in enumerate(read_text(file).removesuffix("\n").split("\n"), start=1):
        sentence, tab, label = line.rpartition("\t")
        if not tab or not sentence.strip() or not (label.strip() or file.stem == "train"):
            raise UsageError(f"{file}, line {number}: not a sentence, a tab and a label")
        rows.append((sentence, label.strip(), f"line {number}"))
    return rows


def prepare(task: TextTask, data: Dataset, rng: np.random.Generator, progress: Progress, out: Path) -> Prepared:
    """Check the sentences, find or build the tokenizer, encode, draw the views. File: `tokenizer.json`, in `out`.

    Raises UsageError naming the split and the sample at fault, or if the tokenizer cannot be used.
    """
    train, test = check_sentences("train", data.train), check_sentences("test", data.test)
    validation = None if data.validation is None else check_sentences("validation", data.validation)
    tokenizer = tokenizer_of(task, train)
    padding = padding_id(tokenizer)
    views = [encode(tokenizer, train)]
    found = tokenizer.token_to_id(UNKNOWN)
    unknown = np.int32(padding if found is None else found)
    for view in range(1, task.augment.views):
        progress(view, task.augment.views, "views")
        hits = [dropped(task, row, padding, rng_of(rng, view, index)) for index, row in enumerate(views[0])]
        views.append(np.where(np.stack(hits), unknown, views[0]))
    tokenizer.save(str(out / TOKENIZER_FILE))
    return Prepared(
        train=np.stack(views),
        test=encode(tokenizer, test),
        golden_raw=np.array(test[:GOLDEN_SAMPLES]),
        preprocessing=_describe(task, tokenizer, padding),
        vocabulary=_ids_of(tokenizer),
        app_files=(TOKENIZER_FILE,),
        validation=None if validation is None else encode(tokenizer, validation),
    )


def tokenizer_of(task: TextTask, sentences: Sequence[str]) -> "Tokenizer":
    """The task's tokenizer, given or built from the training sentences, which cuts and pads to the task's length."""
    if task.tokenizer is None:
        tokenizer = _word_tokenizer(sentences, task.vocabulary or 0)
    else:
        tokenizer = _given_tokenizer(task.tokenizer)
    padding = padding_id(tokenizer)
    tokenizer.enable_truncation(task.length)
    tokenizer.enable_padding(length=task.length, pad_id=padding, pad_token=tokenizer.id_to_token(padding))
    return tokenizer


def vocabulary_size(task: TextTask) -> int:
    """How many token ids there will be at most. Raises UsageError if the tokenizer cannot be read."""
    if task.tokenizer is not None:
        return _ids_of(_given_tokenizer(task.tokenizer))
    return task.vocabulary or 0


def check_sentences(split_name: str, split: Split) -> list[str]:
    """The sentences as they are. Raises UsageError for one that is not text or is blank, naming it."""
    for index, sentence in enumerate(split.inputs):
        name = f"data: {split_name} {split.name(index)}"
        if not isinstance(sentence, str):
            raise UsageError(f"{name} is {type(sentence).__name__}; give a string")
        if not sentence.strip():
            raise UsageError(f"{name} is blank; leave it out")
    return [str(sentence) for sentence in split.inputs]


def _word_tokenizer(sentences: Sequence[str], size: int) -> "Tokenizer":
    """Lower-case words and runs of other characters; the most frequent of the training split have an id."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.trainers import WordLevelTrainer

    tokenizer = Tokenizer(WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), Whitespace()
    trainer = WordLevelTrainer(vocab_size=size, special_tokens=[PADDING, UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


def _given_tokenizer(file: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception for whatever is wrong with the file
        raise UsageError(f"task.tokenizer: {file} is not a tokenizer.json ({first_line(error)})") from error


def _ids_of(tokenizer: "Tokenizer") -> int:
    """One more than the largest id; a given vocabulary may have gaps."""
    return int(max(tokenizer.get_vocab().values(), default=-1)) + 1


def same_tokenizer(one: Path, other: Path) -> bool:
    """Do two tokenizer.json give the same ids, however far they cut and pad?"""
    if not one.is_file():
        return False
    try:
        contents = [json.loads(file.read_text(encoding="utf-8")) for file in (one, other)]
    except ValueError:
        return False
    kept = [{**content, "padding": None, "truncation": None} for content in contents]
    return bool(kept[0] == kept[1])


def padding_of(file: Path) -> int:
    """The id of padding of a tokenizer.json."""
    return padding_id(_given_tokenizer(file))


def padding_id(tokenizer: "Tokenizer") -> int:
    if tokenizer.padding is not None and tokenizer.id_to_token(tokenizer.padding["pad_id"]) is not None:
        return int(tokenizer.padding["pad_id"])
    found = [number for name in PADDING_NAMES if (number := tokenizer.token_to_id(name)) is not None]
    if not found:
        raise UsageError(f"task.tokenizer: it has no padding token; add {PADDING} to it")
    return found[0]


def encode(tokenizer: "Tokenizer", sentences: Sequence[str]) -> np.ndarray:
    try:
        encoded = tokenizer.encode_batch(list(sentences))
    except Exception as error:  # plain Exception again, for a word that the tokenizer has no id for
        raise UsageError(f"task.tokenizer: it cannot encode the sentences ({first_line(error)})") from error
    return np.array([entry.ids for entry in encoded], dtype=np.int32)


def dropped(task: TextTask, ids: np.ndarray, padding: int, rng: np.random.Generator) -> np.ndarray:
    """Which ids of a sample, shape (length,), become the unknown one in a view: each with the task's probability."""
    hit: np.ndarray = (rng.random(ids.shape) < task.augment.drop) & (ids != padding)
    return hit


def with_dropped(tokenizer: "Tokenizer", sentence: str, hit: np.ndarray) -> str:
    """The sentence with the pieces behind these ids, bool, shape (length,), replaced by UNKNOWN."""
    pieces, place = [], 0
    for (start, stop), gone in zip(tokenizer.encode(sentence).offsets, hit, strict=False):
        if gone and place <= start < stop:
            pieces += [sentence[place:start], UNKNOWN]
            place = stop
    return "".join([*pieces, sentence[place:]])


def _describe(task: TextTask, tokenizer: "Tokenizer", padding: int) -> dict[str, object]:
    """The whole way from a sentence to model input, as JSON, for whoever writes it again in an app."""
    words = [
        "lower case, each character by itself",
        r"split into runs of word characters and runs of other characters that are not white space: \w+|[^\w\s]+ with "
        "the word characters of Unicode: letters, marks, decimal digits, connectors, joiners",
        f"look each piece up in {TOKENIZER_FILE} (model.vocab); one that is not there is {UNKNOWN}",
    ]
    return {
        "input": "token ids",
        "steps": [
            *(words if task.tokenizer is None else [f"encode with {TOKENIZER_FILE} (Hugging Face tokenizers)"]),
            f"keep the first {task.length} ids; append {padding} to fewer",
        ],
        "tokenizer": TOKENIZER_FILE,
        "vocabulary": _ids_of(tokenizer),
        "length": task.length,
        "padding_id": padding,
        "unknown_id": tokenizer.token_to_id(UNKNOWN),
    }
