"""`read_config`: what fits is read exactly, what does not is refused by origin, key and nearest valid key."""

import pytest

from edgekd.config import nearest, read_config
from edgekd.errors import UsageError
from edgekd.recipe import AudioTask, ImageTask, Recipe
from edgekd.resources import BUILT_IN_RECIPES

ORIGIN = "my.toml"
IMAGE = (BUILT_IN_RECIPES / "digits.toml").read_text()
AUDIO = (BUILT_IN_RECIPES / "spoken-digits.toml").read_text()


def read(*overrides: str, text: str = IMAGE) -> Recipe:
    return read_config(Recipe, text, ORIGIN, overrides)


def refused(*overrides: str, text: str = IMAGE) -> str:
    """The message that refuses a document; it is one line that starts with the origin."""
    message = override_refused(*overrides, text=text)
    assert message.startswith(f"{ORIGIN}: ")
    return message


def override_refused(*overrides: str, text: str = IMAGE) -> str:
    with pytest.raises(UsageError) as error:
        read(*overrides, text=text)
    message = str(error.value)
    assert "\n" not in message
    return message


def without(line: str, text: str = IMAGE) -> str:
    assert line in text
    return text.replace(line, "", 1)


def test_a_document_becomes_the_dataclass():
    recipe = read()
    assert recipe.name == "digits"
    assert isinstance(recipe.task, ImageTask)
    assert recipe.task.augment.rotate == 12.0
    assert recipe.teacher.args == {"width": 32, "blocks": [1, 1]}


def test_the_union_is_chosen_by_its_kind():
    assert isinstance(read(text=AUDIO).task, AudioTask)


def test_a_whole_number_is_a_float_where_a_float_is_asked_for():
    temperature = read("distill.temperature=4").distill.temperature
    assert temperature == 4.0
    assert isinstance(temperature, float)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("seeed", "seed"),
        ("tsk.kind", "task"),
        ("distill.temprature", "temperature"),
        ("teacher.train.epoch", "epochs"),
        ("quantize.train.epocs", "epochs"),
        ("budgets.byts", "bytes"),
        ("task.stdd", "std"),
        ("task.augment.veiws", "views"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest(key: str, near: str):
    message = refused(f"{key}=1")
    written = key if key != "tsk.kind" else "tsk"
    assert f"unknown key '{written}'" in message
    assert f"did you mean '{near}'?" in message


@pytest.mark.parametrize(
    ("key", "near"), [("task.n_mel", "n_mels"), ("task.augment.speeed", "speed"), ("task.sample_rat", "sample_rate")]
)
def test_a_misspelt_key_of_an_audio_task_is_refused_with_the_nearest(key: str, near: str):
    message = refused(f"{key}=1", text=AUDIO)
    assert f"unknown key '{key}'" in message
    assert f"did you mean '{near}'?" in message


@pytest.mark.parametrize(
    ("key", "text", "valid", "foreign"),
    [
        ("task.n_mels", IMAGE, "mean", "hop_length"),
        ("task.mean", AUDIO, "n_mels", "std"),
        ("task.augment.gain", IMAGE, "rotate", "speed"),
        ("task.augment.rotate", AUDIO, "gain", "scale"),
    ],
)
def test_a_key_of_the_other_kind_of_task_is_refused_with_the_keys_of_this_kind(
    key: str, text: str, valid: str, foreign: str
):
    message = refused(f"{key}=1", text=text)
    assert f"unknown key '{key}'; known: " in message
    known = message.partition("known: ")[2].split(", ")
    assert valid in known
    assert foreign not in known


def test_an_unknown_key_with_a_line_break_is_refused_on_one_line():
    refused(text='"a\\nb" = 1\n' + IMAGE)


@pytest.mark.parametrize("kind", ["image-classificatoin", "image", "", "5"])
def test_an_unknown_kind_names_the_kinds_there_are(kind: str):
    message = refused(f"task.kind={kind}")
    assert "kind" in message
    assert "image-classification" in message
    assert "audio-classification" in message


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("distill.train.epochs", '"30"', "'30'"),
        ("distill.train.epochs", "twelve", "'twelve'"),
        ("distill.train.epochs", "true", "True"),
        ("distill.train.epochs", "1.5", "1.5"),
        ("distill.train.epochs", "30.0", "30.0"),
        ("task.mean", "127.5", "127.5"),
        ("distill.temperature", '"4.0"', "'4.0'"),
        ("distill.temperature", "true", "True"),
        ("name", "true", "True"),
        ("teacher.model", "9", "9"),
    ],
)
def test_a_wrong_type_names_the_key_and_the_value(key: str, value: str, shown: str):
    message = refused(f"{key}={value}")
    assert f"'{key}'" in message
    assert message.endswith(f"not {shown}")


@pytest.mark.parametrize("key", ["task", "task.augment", "teacher", "teacher.train", "budgets", "student.args"])
def test_a_value_where_a_table_belongs_names_the_key(key: str):
    assert f"'{key}'" in refused(f"{key}=5")


def test_an_array_of_tables_where_a_table_belongs_names_the_key():
    text = without("[budgets]\nbelow_teacher = 1.0\nbelow_student = 0.5")
    assert "'budgets'" in refused(text=text + "\n[[budgets]]\nbytes = 1\n")


@pytest.mark.parametrize(
    ("key", "value", "limit"),
    [
        ("distill.train.epochs", "-1", "1"),
        ("distill.train.epochs", "0", "1"),
        ("distill.weight", "1.5", "1"),
        ("distill.weight", "-0.1", "0"),
        ("distill.temperature", "0", "0"),
        ("distill.temperature", "nan", "finite"),
        ("distill.temperature", "inf", "finite"),
        ("distill.weight", "-inf", "finite"),
        ("distill.train.learning_rate", "0.0", "0"),
        ("distill.train.ema", "1.0", "1"),
        ("distill.train.max_grad_norm", "0.0", "0"),
        ("distill.train.gradient_accumulation", "0", "1"),
        ("distill.train.early_stopping", "0", "1"),
        ("distill.train.checkpoint_every", "0", "1"),
        ("task.mean", "256", "255"),
        ("task.augment.scale", "1.0", "1"),
        ("task.augment.rotate", "181.0", "180"),
        ("budgets.below_teacher", "101.0", "100"),
        ("budgets.bytes", "0", "1"),
        ("seed", "-1", "0"),
        ("seed", "4294967296", "4294967296"),
        ("seed", "99999999999999999999999999", "4294967296"),
    ],
)
def test_an_impossible_value_names_the_key_and_the_limit(key: str, value: str, limit: str):
    message = refused(f"{key}={value}")
    assert f"'{key}': should be " in message
    assert limit in message.partition("should be ")[2].partition(", not ")[0]


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "two words", "-x"])
def test_a_name_that_is_no_folder_name_is_refused(name: str):
    assert "'name'" in refused(f'name="{name}"')


@pytest.mark.parametrize(
    ("key", "reference"),
    [
        ("task.source", "edgekd.tasks.image"),
        ("task.source", "a:b:c"),
        ("task.source", "a/b:c"),
        ("teacher.model", ""),
        ("student.model", "my model"),
        ("student.model", "a:b()"),
    ],
)
def test_a_reference_that_is_not_module_and_function_is_refused(key: str, reference: str):
    assert f"'{key}'" in refused(f'{key}="{reference}"')


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('name = "digits"', "name"),
        ('model = "ds_cnn"', "student.model"),
        ("epochs = 30", "distill.train.epochs"),
        ('source = "edgekd.tasks.image:digits"', "task.source"),
        ('kind = "image-classification"', "task.kind"),
    ],
)
def test_a_missing_key_is_named(line: str, key: str):
    assert f"'{key}' is missing" in refused(text=without(line))


def test_a_missing_table_is_named():
    assert "'quantize' is missing" in refused(text=IMAGE.partition("[quantize]")[0])


def test_an_empty_document_names_what_is_missing():
    assert "is missing" in refused(text="")


@pytest.mark.parametrize("text", ["hello world", '{"a": 1}', "a = = 3", "a = 1\na = 2", "\x00", "[task", 'a = "'])
def test_what_is_not_toml_is_refused(text: str):
    assert "not valid TOML" in refused(text=text)


def test_a_toml_error_names_the_line():
    assert "line 2" in refused(text='name = "x"\nseed = = 3')


def test_a_problem_across_keys_is_reported_without_the_union_tag():
    message = refused("task.f_max=4001.0", text=AUDIO)
    assert "f_max" in message
    assert "audio-classification" not in message


@pytest.mark.parametrize(
    ("override", "read_back"),
    [
        ("distill.weight=0.5", lambda r: r.distill.weight == 0.5),
        ("distill.weight = 0.5", lambda r: r.distill.weight == 0.5),
        ("seed=7", lambda r: r.seed == 7),
        ("name=other", lambda r: r.name == "other"),
        ('name="other"', lambda r: r.name == "other"),
        ("name='other'", lambda r: r.name == "other"),
        ("budgets.bytes=40_000", lambda r: r.budgets.bytes == 40000),
        ("student.args.width=16", lambda r: r.student.args == {"width": 16, "blocks": 3}),
        ("student.args={ width = 8 }", lambda r: r.student.args == {"width": 8}),
        ("teacher.args.blocks=[2, 2]", lambda r: r.teacher.args["blocks"] == [2, 2]),
        ("task.args.shuffle=true", lambda r: r.task.args.get("shuffle") is True),
        ("task.args.speaker=007", lambda r: r.task.args.get("speaker") == "007"),
        ("task.args.query=a=b", lambda r: r.task.args.get("query") == "a=b"),
        ("task.args.new.table=3", lambda r: r.task.args == {"test_every": 5, "new": {"table": 3}}),
    ],
)
def test_an_override_sets_its_key(override: str, read_back):
    assert not read_back(read())
    assert read_back(read(override))


def test_an_override_makes_the_table_it_needs():
    bare = without("[budgets]\nbelow_teacher = 1.0\nbelow_student = 0.5")
    assert read(text=bare).budgets.bytes is None
    assert read("budgets.bytes=1000", text=bare).budgets.bytes == 1000


def test_an_override_leaves_its_neighbours_alone():
    before, after = read().distill, read("distill.weight=0.5").distill
    assert (after.temperature, after.train) == (before.temperature, before.train)


def test_the_last_override_wins():
    assert read("seed=1", "seed=2").seed == 2


@pytest.mark.parametrize("override", ["distill", "", "=3", "a..b=3", ".seed=3", "distill.=3"])
def test_an_override_that_is_not_key_and_value_shows_how_to_write_it(override: str):
    message = override_refused(override)
    assert f"--set {override}" in message
    assert "key=value" in message


@pytest.mark.parametrize("override", ["distill.temperature.x=3", "name.x=3", "name.x.y=3"])
def test_an_override_through_a_value_is_refused(override: str):
    message = override_refused(override)
    assert f"--set {override}" in message
    assert "not a table" in message


def test_a_misspelt_override_is_refused_with_the_nearest():
    assert "did you mean 'seed'?" in refused("sed=3")


def test_an_override_of_two_lines_is_not_read_in_part():
    override_refused("distill.weight=0.5\nseed = 3")


@pytest.mark.parametrize(
    ("word", "known", "clause"),
    [
        ("digts", ["digits", "spoken-digits"], "did you mean 'digits'?"),
        ("zzz", ["b", "a"], "known: a, b"),
        ("zzz", [], "known: none"),
    ],
)
def test_nearest_names_one_or_all(word: str, known: list[str], clause: str):
    assert nearest(word, known) == clause
