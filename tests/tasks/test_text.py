import dataclasses
import itertools
import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel, WordPiece
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from edgekd.config import read_config
from edgekd.errors import UsageError
from edgekd.recipe import TextAugment, TextTask
from edgekd.step import silent
from edgekd.tasks import Dataset, Split
from edgekd.tasks.dataset import Prepared
from edgekd.tasks.text import prepare, tsv_folder, vocabulary_size

TRAIN = (
    "The film is good, good, GOOD!",
    "the film is bad",
    "a good story; a fine cast",
    "bad bad acting -- don't go",
    "Ein schöner Film (wirklich)",
    "映画 は good です",
)
TEST = (
    "a film that nobody knows",
    "Good... or bad?!",
    "SCHÖNER film_noir 2001: 10/10",
    "  tabs\tand   spaces  ",
    "映画 bad",
    "good " * 20,
    "it's",
)
REFERENCE = "tests.tasks.nowhere:source"


def task(**settings: Any) -> TextTask:
    settings = {"length": 8, **settings}
    if "tokenizer" not in settings:
        settings = {"vocabulary": 100, **settings}
    return TextTask(kind="text-classification", source=REFERENCE, **settings)


def dataset(train: Sequence[Any] = TRAIN, test: Sequence[Any] = TEST) -> Dataset:
    labels = [np.arange(len(part)) % 2 for part in (train, test)]
    return Dataset(Split(train, labels[0]), Split(test, labels[1]), ("bad", "good"))


def prepared(folder: Path, seed: int = 0, data: Dataset | None = None, **settings: Any) -> Prepared:
    return prepare(task(**settings), data or dataset(), np.random.default_rng(seed), silent, folder)


def vocabulary(folder: Path) -> dict[str, int]:
    return json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]


def refusal(folder: Path, data: Dataset | None = None, **settings: Any) -> str:
    with pytest.raises(UsageError) as caught:
        prepared(folder, 0, data, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def tsv(folder: Path, train: str, test: str = "good\t1\nbad\t0\n", validation: str | None = None) -> TextTask:
    for name, text in (("train", train), ("test", test), ("validation", validation)):
        if text is not None:
            (folder / f"{name}.tsv").write_text(text, encoding="utf-8")
    return task(data=folder)


def test_a_line_is_a_sentence_a_tab_and_a_label(tmp_path: Path) -> None:
    data = tsv_folder(tsv(tmp_path, "so good\tyes\nso bad\tno\nwith\ta tab \t yes\n"))
    assert data.labels == ("0", "1", "no", "yes")
    assert list(data.train.inputs) == ["so good", "so bad", "with\ta tab "]
    assert [data.labels[label] for label in data.train.labels] == ["yes", "no", "yes"]
    assert [data.labels[label] for label in data.test.labels] == ["1", "0"]
    assert data.train.labels.dtype == np.int64


def test_names_are_given_in_the_order_of_the_labels(tmp_path: Path) -> None:
    data = tsv_folder(tsv(tmp_path, "a\t1\nb\t0\n"), names=["negative", "positive"])
    assert data.labels == ("negative", "positive")
    assert data.train.labels.tolist() == [1, 0]


def test_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    lines = "".join(f"sentence {number}\t{number}\n" for number in range(12))
    names = [f"class {number}" for number in range(12)]
    data = tsv_folder(tsv(tmp_path, lines, lines), names=names)
    assert [data.labels[label] for label in data.train.labels] == names


@pytest.mark.parametrize("names", [["one"], ["one", "two", "three"]])
def test_another_number_of_names_is_refused_with_the_labels(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{len(names)} names for the 2 labels 0, 1"):
        tsv_folder(tsv(tmp_path, "a\t1\nb\t0\n"), names=names)


@pytest.mark.parametrize("line", ["no label", "\t1", "   \t1", "", "\t"], ids=lambda line: repr(line))
@pytest.mark.parametrize("split", ["train", "test", "validation"])
def test_a_line_that_is_not_one_is_named(split: str, line: str, tmp_path: Path) -> None:
    lines = {"train": "a\t1\nb\t0\n", "test": "a\t1\nb\t0\n"}
    lines[split] = f"a\t1\n{line}\nb\t0\n"
    with pytest.raises(UsageError, match=rf"{split}\.tsv, line 2: not a sentence, a tab and a label"):
        tsv_folder(tsv(tmp_path, **lines))


@pytest.mark.parametrize("line", ["no label\t", "no label\t  "], ids=lambda line: repr(line))
def test_only_a_training_line_may_lack_its_label(line: str, tmp_path: Path) -> None:
    data = tsv_folder(tsv(tmp_path, f"a\t1\n{line}\nb\t0\n"))
    assert data.train.labels.tolist() == [1, -1, 0]
    for split in ("test", "validation"):
        with pytest.raises(UsageError, match=rf"{split}\.tsv, line 1: not a sentence, a tab and a label"):
            tsv_folder(tsv(tmp_path, "a\t1\nb\t0\n", **{split: line}))


def test_a_validation_file_is_taken_where_there_is_one(tmp_path: Path) -> None:
    assert tsv_folder(tsv(tmp_path, "a\t1\nb\t0\n")).validation is None
    data = tsv_folder(tsv(tmp_path, "a\t1\nb\t0\n", validation="c\t1\n"))
    assert data.validation is not None
    assert (list(data.validation.inputs), data.validation.labels.tolist()) == (["c"], [1])


def test_a_line_may_have_several_labels_or_none(tmp_path: Path) -> None:
    lines = "a\tsad, long\nb\tlong\nc\t-\nd\t\ne\tangry\n"
    data = tsv_folder(dataclasses.replace(tsv(tmp_path, lines, "f\tsad\n"), kind="text-multi-label"))
    assert data.labels == ("angry", "long", "sad")
    assert data.train.labels.tolist() == [[0, 1, 1], [0, 1, 0], [0, 0, 0], [-1, -1, -1], [1, 0, 0]]


def test_a_line_may_have_numbers(tmp_path: Path) -> None:
    task = dataclasses.replace(tsv(tmp_path, "a\t0.5, -2\nb\t\n", "c\t1e3,4\n"), kind="text-regression")
    data = tsv_folder(task, names=["stars", "anger"])
    assert data.labels == ("stars", "anger")
    np.testing.assert_array_equal(data.train.labels, [[0.5, -2], [np.nan, np.nan]])
    assert data.test.labels.tolist() == [[1000, 4]]


@pytest.mark.parametrize(
    ("line", "words"), [("a\tfour", "'four' is not a number"), ("a\t1,2,3", "3 numbers; task.args.names has 1 names")]
)
def test_a_line_without_its_numbers_is_named(line: str, words: str, tmp_path: Path) -> None:
    task = dataclasses.replace(tsv(tmp_path, f"b\t1\n{line}\n", "c\t1\n"), kind="text-regression")
    with pytest.raises(UsageError, match=rf"train\.tsv, line 2: {words}"):
        tsv_folder(task, names=["stars"])


@pytest.mark.parametrize("odd", ["\u2028", "\x85", "\x0b", "\x0c", "\x1e"], ids=ascii)
def test_only_a_line_feed_ends_a_line(odd: str, tmp_path: Path) -> None:
    data = tsv_folder(tsv(tmp_path, f"one{odd}sentence\t1\nb\t0\n"))
    assert list(data.train.inputs) == [f"one{odd}sentence", "b"]


def test_lines_may_end_as_on_windows(tmp_path: Path) -> None:
    data = tsv_folder(tsv(tmp_path, "a b\t1\r\nc d\t0\r\n"))
    assert list(data.train.inputs) == ["a b", "c d"]
    assert [data.labels[label] for label in data.train.labels] == ["1", "0"]


def test_samples_are_called_by_their_line(tmp_path: Path) -> None:
    data = tsv_folder(tsv(tmp_path, "a\t1\nb\t0\n"))
    assert data.train.name(1) == "line 2"


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    tsv(tmp_path, "a\t1\nb\t0\n")
    (tmp_path / "test.tsv").unlink()
    with pytest.raises(UsageError, match=r"test\.tsv: no such file"):
        tsv_folder(task(data=tmp_path))
    with pytest.raises(UsageError, match="no folder given"):
        tsv_folder(task())
    with pytest.raises(UsageError, match="is not a folder"):
        tsv_folder(task(data=tmp_path / "train.tsv"))


def test_what_is_not_text_is_refused(tmp_path: Path) -> None:
    tsv(tmp_path, "a\t1\nb\t0\n")
    (tmp_path / "train.tsv").write_bytes(b"caf\xe9\t1\n")
    with pytest.raises(UsageError, match=r"train\.tsv: cannot be read as UTF-8"):
        tsv_folder(task(data=tmp_path))


@pytest.mark.parametrize(
    ("wrong", "words"), [("  \n", "is blank"), ("", "is blank"), (5, "is int"), (None, "NoneType")]
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_sentence_that_is_none_is_named(split: str, wrong: object, words: str, tmp_path: Path) -> None:
    sentences = {"train": list(TRAIN), "test": list(TEST)}
    sentences[split][3] = wrong
    message = refusal(tmp_path, dataset(**sentences))
    assert f"{split} sample 3" in message
    assert words in message


def test_ids_0_and_1_are_padding_and_the_unknown_word(tmp_path: Path) -> None:
    result = prepared(tmp_path)
    assert (vocabulary(tmp_path)["[PAD]"], vocabulary(tmp_path)["[UNK]"]) == (0, 1)
    assert (result.preprocessing["padding_id"], result.preprocessing["unknown_id"]) == (0, 1)


def test_words_have_ids_by_their_frequency_in_the_training_split(tmp_path: Path) -> None:
    train = ("c b a", "c b", "c", "d", "d d d d")
    result = prepared(tmp_path, data=dataset(train, ("z z z z z z z", "a b")), vocabulary=5)
    assert vocabulary(tmp_path) == {"[PAD]": 0, "[UNK]": 1, "d": 2, "c": 3, "b": 4}
    assert result.vocabulary == 5
    np.testing.assert_array_equal(result.test[:, :3], [[1, 1, 1], [1, 4, 0]])


def test_equally_frequent_words_do_not_depend_on_the_order_of_the_sentences(tmp_path: Path) -> None:
    train = ("delta alpha", "charlie bravo", "echo foxtrot")
    found = []
    for order in (train, train[::-1]):
        prepared(tmp_path, data=dataset(order), vocabulary=5)
        found.append(vocabulary(tmp_path))
    assert found[0] == found[1]


def test_fewer_words_than_asked_for_make_a_smaller_vocabulary(tmp_path: Path) -> None:
    result = prepared(tmp_path, data=dataset(("a b", "c")), vocabulary=1000)
    assert result.vocabulary == 5
    assert result.preprocessing["vocabulary"] == 5
    assert vocabulary_size(task(vocabulary=1000)) == 1000


def test_a_sentence_is_cut_or_padded_to_the_length(tmp_path: Path) -> None:
    result = prepared(tmp_path, data=dataset(("a b c", "a a a b b c c c c"), ("a", "c a b c a b")), length=4)
    ids = vocabulary(tmp_path)
    a, b, c = (ids[word] for word in "abc")
    assert result.train.shape == (1, 2, 4)
    assert result.train.dtype == result.test.dtype == np.int32
    np.testing.assert_array_equal(result.train[0], [[a, b, c, 0], [a, a, a, b]])
    np.testing.assert_array_equal(result.test, [[a, 0, 0, 0], [c, a, b, c]])


def test_case_does_not_count(tmp_path: Path) -> None:
    result = prepared(tmp_path, data=dataset(TRAIN, ("the GOOD Film", "THE good fILM")))
    np.testing.assert_array_equal(result.test[0], result.test[1])
    assert "GOOD" not in vocabulary(tmp_path)


def test_golden_samples_are_the_sentences_themselves(tmp_path: Path) -> None:
    result = prepared(tmp_path)
    assert result.golden_raw.tolist() == list(TEST)
    assert result.app_files == ("tokenizer.json",)
    assert (tmp_path / "tokenizer.json").is_file()


def by_hand(sentence: str, ids: dict[str, int], description: dict[str, Any]) -> list[int]:
    """What the description of the preprocessing says, step by step, with nothing but the standard library."""
    pieces = re.findall(r"\w+|[^\w\s]+", sentence.lower())
    found = [ids.get(piece, description["unknown_id"]) for piece in pieces][: description["length"]]
    return found + [description["padding_id"]] * (description["length"] - len(found))


@pytest.mark.parametrize("size", [12, 100])
def test_what_the_description_says_is_enough_to_compute_the_ids(size: int, tmp_path: Path) -> None:
    result, ids = prepared(tmp_path, vocabulary=size), vocabulary(tmp_path)
    description = json.loads(json.dumps(result.preprocessing))
    assert description["tokenizer"] == "tokenizer.json"
    assert [
        word for word in (r"\w+|[^\w\s]+", "lower case", "[UNK]", "first 8 ids") if word not in steps_of(result)
    ] == []
    for found, sentences in ((result.train[0], TRAIN), (result.test, TEST)):
        assert [by_hand(sentence, ids, description) for sentence in sentences] == found.tolist()


OTHER_SCRIPTS = ("हिन्दी में फ़िल्म", "ΟΔΟΣ οδοσ", "İstanbul", "e\u0301te\u0301 naïve", "x² ½ a_b", "a\u200cb \u0663")


def kind(character: str) -> str:
    """As the description says: letters, marks, decimal digits, connectors, joiners; then what is not white space."""
    category = unicodedata.category(character)
    if category[0] in "LM" or category in ("Nd", "Pc") or character in "\u200c\u200d":
        return "word"
    return "space" if character.isspace() else "other"


def test_the_description_holds_for_every_script(tmp_path: Path) -> None:
    result, ids = prepared(tmp_path, data=dataset(OTHER_SCRIPTS, OTHER_SCRIPTS)), vocabulary(tmp_path)
    for sentence, found in zip(OTHER_SCRIPTS, result.test, strict=True):
        groups = itertools.groupby("".join(character.lower() for character in sentence), kind)
        pieces = ["".join(group) for name, group in groups if name != "space"]
        assert [ids[piece] for piece in pieces] == found[found != 0].tolist(), sentence


def steps_of(result: Prepared) -> str:
    return " ".join(map(str, result.preprocessing["steps"]))


def test_the_first_view_is_the_sentence_itself(tmp_path: Path) -> None:
    plain = prepared(tmp_path)
    result = prepared(tmp_path, augment=TextAugment(views=3, drop=0.5))
    assert result.train.shape == (3, len(TRAIN), 8)
    np.testing.assert_array_equal(result.train[0], plain.train[0])
    np.testing.assert_array_equal(result.test, plain.test)


def test_a_view_changes_words_to_unknown_ones_and_nothing_else(tmp_path: Path) -> None:
    result = prepared(tmp_path, augment=TextAugment(views=6, drop=0.5))
    for view in result.train[1:]:
        changed = view != result.train[0]
        assert changed.any()
        assert set(view[changed]) == {1}
        assert not changed[result.train[0] == 0].any()


@pytest.mark.parametrize("drop", [0.1, 0.5])
def test_as_many_words_are_dropped_as_the_task_says(drop: float, tmp_path: Path) -> None:
    many = tuple("one two three four five six seven eight" for _ in range(500))
    result = prepared(tmp_path, data=dataset(many), augment=TextAugment(views=2, drop=drop))
    share = (result.train[1] == 1).mean()
    assert abs(share - drop) < 4 * np.sqrt(drop * (1 - drop) / result.train[1].size)


@pytest.mark.parametrize(("drop", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_no_word_or_every_word_is_dropped(drop: float, share: float, tmp_path: Path) -> None:
    result = prepared(tmp_path, augment=TextAugment(views=2, drop=drop))
    words = result.train[0] > 1
    assert (result.train[1][words] == 1).mean() == share


def test_views_are_those_of_the_seed(tmp_path: Path) -> None:
    augment = TextAugment(views=3, drop=0.4)
    one, again, other = (prepared(tmp_path, seed, augment=augment).train for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def saved(tokenizer: Tokenizer, folder: Path) -> Path:
    file = folder / "given.json"
    tokenizer.save(str(file))
    return file


def words(entries: dict[str, int], unknown: str | None = "[UNK]") -> Tokenizer:
    tokenizer = Tokenizer(WordLevel(entries, unk_token=unknown) if unknown else WordLevel(entries))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


GIVEN = {"[UNK]": 0, "film": 1, "good": 2, "[PAD]": 3, "bad": 4}


def test_a_given_tokenizer_is_used_as_it_is(tmp_path: Path) -> None:
    file = saved(words(GIVEN), tmp_path)
    result = prepared(tmp_path, tokenizer=file, length=4, data=dataset(TRAIN, ("film good", "BAD bad")))
    np.testing.assert_array_equal(result.test, [[1, 2, 3, 3], [0, 4, 3, 3]])
    assert result.vocabulary == 5
    assert (result.preprocessing["padding_id"], result.preprocessing["unknown_id"]) == (3, 0)
    assert "lower case" not in steps_of(result)
    assert vocabulary_size(task(tokenizer=file)) == 5


def test_an_app_can_encode_with_the_published_tokenizer(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    pieces = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "film": 4, "go": 5, "##od": 6, "bad": 7}
    tokenizer = Tokenizer(WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_padding(length=3, pad_id=0, direction="left")
    result = prepared(
        tmp_path, tokenizer=saved(tokenizer, given), length=6, data=dataset(TRAIN, ("good film", TEST[5]))
    )
    published = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [published.encode(sentence).ids for sentence in ("good film", TEST[5])] == result.test.tolist()
    assert result.test.tolist() == [[2, 5, 6, 4, 3, 0], [2, 5, 6, 5, 6, 3]]


@pytest.mark.parametrize("name", ["[PAD]", "<pad>", "<PAD>"])
def test_the_padding_token_is_found_by_its_name(name: str, tmp_path: Path) -> None:
    file = saved(words({"[UNK]": 0, "film": 1, name: 2}), tmp_path)
    assert prepared(tmp_path, tokenizer=file).preprocessing["padding_id"] == 2


def test_a_tokenizer_without_a_padding_token_is_refused(tmp_path: Path) -> None:
    file = saved(words({"[UNK]": 0, "film": 1}), tmp_path)
    assert "no padding token" in refusal(tmp_path, tokenizer=file)


def test_a_padding_id_that_is_no_token_is_refused(tmp_path: Path) -> None:
    tokenizer = words({"[UNK]": 0, "film": 1})
    tokenizer.enable_padding(pad_id=7, pad_token="[PAD]")
    assert "task.tokenizer" in refusal(tmp_path, tokenizer=saved(tokenizer, tmp_path))


def test_ids_with_gaps_are_all_in_the_vocabulary(tmp_path: Path) -> None:
    file = saved(words({"[PAD]": 0, "[UNK]": 1, "film": 50, "good": 9}), tmp_path)
    result = prepared(tmp_path, tokenizer=file)
    assert result.train.max() == 50
    assert result.vocabulary == result.preprocessing["vocabulary"] == vocabulary_size(task(tokenizer=file)) == 51


def test_a_tokenizer_that_cannot_encode_a_word_is_refused(tmp_path: Path) -> None:
    file = saved(words({"[PAD]": 0, "film": 1}, unknown=None), tmp_path)
    message = refusal(tmp_path, tokenizer=file)
    assert "task.tokenizer" in message
    assert "[UNK]" in message


def test_a_tokenizer_without_unknown_words_drops_to_padding(tmp_path: Path) -> None:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel()
    alphabet = ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TRAIN, BpeTrainer(initial_alphabet=alphabet, special_tokens=["<pad>"], vocab_size=300)
    )
    result = prepared(tmp_path, tokenizer=saved(tokenizer, tmp_path), augment=TextAugment(views=2, drop=1.0))
    assert result.preprocessing["unknown_id"] is None
    assert set(result.train[1].ravel()) == {0}
    assert (result.train[0] > 0).any()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"hello", b'{"version": "1.0"}', b"PK\x03\x04" + bytes(60), b"\xff\xfe"], ids=repr
)
def test_what_is_no_tokenizer_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "given.json"
    file.write_bytes(content)
    assert f"{file} is not a tokenizer.json" in refusal(tmp_path, tokenizer=file)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_a_truncated_tokenizer_is_refused(share: float, tmp_path: Path) -> None:
    file = saved(words(GIVEN), tmp_path)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert f"{file} is not a tokenizer.json" in refusal(tmp_path, tokenizer=file)
    with pytest.raises(UsageError, match=r"given\.json is not a tokenizer"):
        vocabulary_size(task(tokenizer=file))


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path / "gone.json") in refusal(tmp_path, tokenizer=tmp_path / "gone.json")


@pytest.mark.parametrize("lines", ["", 'vocabulary = 100\ntokenizer = "tokenizer.json"'], ids=["neither", "both"])
def test_a_recipe_has_a_vocabulary_or_a_tokenizer(lines: str) -> None:
    text = f'kind = "text-classification"\nsource = "{REFERENCE}"\n{lines}'
    with pytest.raises(UsageError, match="either 'vocabulary'"):
        read_config(TextTask, text, "mine.toml")


def test_a_vocabulary_holds_at_least_one_word() -> None:
    text = f'kind = "text-classification"\nsource = "{REFERENCE}"\nvocabulary = 2'
    with pytest.raises(UsageError, match="vocabulary"):
        read_config(TextTask, text, "mine.toml")
