"""The command line as a real process: what it prints, where, and how it ends."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from edgekd.artifact import Provenance, State
from edgekd.recipe import load_recipe
from edgekd.resources import BUILT_IN_RECIPES
from edgekd.store import Order, Store
from tests.conftest import Run

ROOT = Path(__file__).resolve().parents[1]
VERBS = ("build", "plan", "verify", "bench", "report", "init", "targets", "devices", "doctor")
PLAN = ("plan", "--target", "tflite-arm")
TRIED = ["preflight[objective]", "preflight[tflite-arm]"]
GARBAGE = b"\x1c\x00\x00\x00TFL3" + b"garbage " * 64
Cli = Callable[..., Run]

LOADED = """
import sys
from edgekd.cli import main
try:
    main()
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""
WITHOUT = """
import sys
from importlib import metadata
absent, modules = sys.argv[1].split(","), sys.argv[2].split(",")
del sys.argv[1:3]
installed = metadata.version

def version(name):
    if name in absent:
        raise metadata.PackageNotFoundError(name)
    return installed(name)

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

metadata.version = version
sys.meta_path.insert(0, Absent())
from edgekd.cli import main
main()
"""


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "EDGEKD_STORE": str(folder / "store"), "COLUMNS": "100"}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The current folder of every command."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.fixture
def cli(here: Path, tmp_path: Path) -> Cli:
    """Run edgekd in `here`; `code` runs in place of `python -m edgekd`."""

    def run(*arguments: str, code: str | None = None) -> Run:
        start = ["-m", "edgekd"] if code is None else ["-c", code]
        done = subprocess.run(
            [sys.executable, *start, *arguments],
            cwd=here,
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Run(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def tried_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the student of digits has been tried: planning it again takes no time."""
    folder = tmp_path_factory.mktemp("tried")
    start = [sys.executable, "-m", "edgekd", *PLAN]
    subprocess.run(start, cwd=folder, env=environment(folder), capture_output=True, timeout=120, check=True)
    return folder / "store"


@pytest.fixture
def tried(tried_store: Path, tmp_path: Path) -> None:
    """A copy of it as the store of every command."""
    shutil.copytree(tried_store, tmp_path / "store")


def assert_one_line(run: Run, code: int) -> str:
    """The command ended with `code`, nothing on stdout, and one line on stderr, which is returned."""
    assert run.stdout == ""
    lines = run.stderr.splitlines()
    assert len(lines) == 1, run.stderr
    assert lines[0].startswith("edgekd: ")
    assert run.code == code, lines[0]
    return lines[0]


def modules_after(cli: Cli, *arguments: str) -> set[str]:
    return set(cli(*arguments, code=LOADED).stderr.splitlines()[-1].split())


def test_help_lists_every_verb_and_loads_nothing_heavy(cli: Cli):
    run = cli("--help", code=LOADED)
    assert run.code == 0
    listed = [line.split()[0] for line in run.stdout.splitlines() if line.startswith("  ") and line.strip()]
    assert set(VERBS) <= set(listed)
    loaded = set(run.stderr.split())
    assert "typer" in loaded
    assert not loaded & {"torch", "numpy", "pydantic", "nncf", "ai_edge_litert", "litert_torch", "matplotlib", "jinja2"}


@pytest.mark.usefixtures("tried")
@pytest.mark.parametrize("arguments", [PLAN, ("doctor",), ("targets",)])
def test_a_verb_that_runs_nothing_loads_no_framework(arguments: tuple[str, ...], cli: Cli):
    loaded = modules_after(cli, *arguments)
    assert "pydantic" in loaded
    assert not loaded & {"torch", "nncf", "litert_torch", "ai_edge_litert", "tensorflow", "sklearn", "scipy"}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_explains_itself(verb: str, cli: Cli):
    run = cli(verb, "--help")
    assert (run.code, run.stderr) == (0, "")
    assert f" {verb} " in run.stdout.splitlines()[0]
    assert "--json" in run.stdout


def test_without_a_verb_the_help_is_shown_as_it_is(cli: Cli):
    run = cli()
    assert run.code in (0, 2)
    assert any(line.startswith("  build ") for line in (run.stdout + run.stderr).splitlines())


@pytest.mark.parametrize(("verb", "name"), [("targets", "tflite-arm"), ("devices", "local")])
def test_what_there_is_is_listed(verb: str, name: str, cli: Cli):
    text, document = cli(verb), cli(verb, "--json")
    assert (text.code, text.stderr, document.code, document.stderr) == (0, "", 0, "")
    names = [entry["name"] for entry in document.document]
    assert name in names
    assert [line.split()[0] for line in text.stdout.splitlines()[1:]] == names
    assert names == sorted(file.stem for file in (ROOT / verb).glob("*.toml"))


def test_doctor_says_what_is_installed(cli: Cli):
    run = cli("doctor", "--json")
    assert (run.code, run.stderr) == (0, "")
    packages = run.document["packages"]
    assert packages["numpy"]["installed"] == version("numpy")
    target = run.document["targets"]["tflite-arm"]
    assert target["missing"] == [name for name, state in packages.items() if state["installed"] is None]
    assert target["ready"] == (not target["missing"])
    text = cli("doctor")
    assert (text.code, text.stderr) == (0, "")
    assert f"numpy {version('numpy')}" in " ".join(text.stdout.split())


def test_doctor_names_what_is_missing_and_mends_it(cli: Cli):
    run = cli("nncf,torch", "nncf,torch", "doctor", "--json", code=WITHOUT)
    assert run.code == 0
    target = run.document["targets"]["tflite-arm"]
    assert (target["ready"], target["missing"]) == (False, ["nncf", "torch"])
    assert "pip install 'edgekd[tflite]'" in target["mend"]
    assert run.document["packages"]["torch"]["installed"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        PLAN,
        ("build", "--target", "tflite-arm"),
        ("bench", "g.tflite"),
        ("bench", "g.tflite", "--against", "g.tflite"),
        ("verify", "published"),
    ],
    ids=" ".join,
)
def test_a_missing_package_is_one_line_with_the_command_that_mends_it(arguments: tuple[str, ...], cli: Cli, here: Path):
    (here / "g.tflite").write_bytes(GARBAGE)
    (here / "published").mkdir()
    manifest = {"model": "model.tflite", "files": {}, "quantizers": [], "parity": {"limits": {}}}
    manifest |= {"runtime": "ai-edge-litert", "precision": "int8", "output": {"meaning": "logits"}}
    (here / "published" / "manifest.json").write_text(json.dumps(manifest))
    line = assert_one_line(cli("ai-edge-litert", "ai_edge_litert", *arguments, code=WITHOUT), 3)
    assert "ai-edge-litert" in line
    assert "pip install 'edgekd[tflite]'" in line


@pytest.mark.usefixtures("tried")
def test_plan_shows_every_step_and_runs_nothing(cli: Cli, here: Path, tmp_path: Path):
    run = cli(*PLAN, "--json")
    assert run.code == 0
    document = run.document
    assert document["recipe"] == "digits"
    assert "digits" in document["origin"]
    assert document["targets"] == ["tflite-arm"]
    steps = document["steps"]
    names = [*TRIED, "data", "teacher", "outputs", "student", "program"]
    assert [step["name"] for step in steps][:7] == names
    assert [step["name"] for step in steps if step["cached"]] == TRIED
    assert all(len(step["key"]) == 64 for step in steps)
    assert list(here.iterdir()) == []
    (flight,) = document["preflight"]
    assert (flight["target"], flight["exports"], flight["why_not"]) == ("tflite-arm", True, "")


@pytest.mark.usefixtures("tried")
def test_plan_as_text_says_the_recipe_and_the_same_steps(cli: Cli):
    text, document = cli(*PLAN), cli(*PLAN, "--json").document
    assert text.code == 0
    first, student, _, *rows, flight, device = text.stdout.splitlines()
    assert "digits" in first
    assert student == f"student: {document['student']}" == "student: ds_cnn"
    assert [line.split()[-1] for line in rows] == [step["key"][:16] for step in document["steps"]]
    assert all("to run" in line for line in rows[2:])
    assert flight.startswith("tflite-arm: exports, about ")
    assert device == "local: reached"


@pytest.mark.usefixtures("tried")
def test_plan_knows_what_is_in_the_store(cli: Cli, tmp_path: Path):
    keys = {step["name"]: step["key"] for step in cli(*PLAN, "--json").document["steps"]}
    order = Order(keys["teacher"], "teacher", State("torch"), Provenance({}, {}, "", {}, 0, 0.0, ""))
    Store(tmp_path / "store").obtain(order, lambda out: {})
    steps = cli(*PLAN, "--json").document["steps"]
    assert [step["name"] for step in steps if step["cached"]] == [*TRIED, "teacher"]


@pytest.mark.usefixtures("tried")
def test_set_reaches_the_plan(cli: Cli):
    before = {step["name"]: step["key"] for step in cli(*PLAN, "--json").document["steps"]}
    run = cli(*PLAN, "--set", "distill.temperature=2", "--set", "name=mine", "--json")
    after = {step["name"]: step["key"] for step in run.document["steps"]}
    assert run.document["recipe"] == "mine"
    assert before["teacher"] == after["teacher"]
    assert before["student"] != after["student"]


@pytest.mark.usefixtures("tried")
def test_init_writes_a_recipe_that_is_then_the_default(cli: Cli, here: Path):
    run = cli("init", "--json")
    assert (run.code, run.stderr, run.document) == (0, "", {"recipe": "edgekd.toml"})
    assert load_recipe(str(here / "edgekd.toml")).recipe == load_recipe("digits").recipe
    assert cli(*PLAN, "--json").document["origin"] == "edgekd.toml"


def test_init_can_start_from_another_recipe(cli: Cli, here: Path):
    assert cli("init", "--recipe", "spoken-digits").code == 0
    assert (here / "edgekd.toml").read_text() == (BUILT_IN_RECIPES / "spoken-digits.toml").read_text()


@pytest.mark.usefixtures("tried")
def test_a_target_may_be_a_file(cli: Cli, here: Path):
    (here / "mine.toml").write_text((ROOT / "targets" / "tflite-arm.toml").read_text())
    steps = cli("plan", "--target", "mine.toml", "--json").document["steps"]
    keys = {step["name"]: step["key"] for step in cli(*PLAN, "--json").document["steps"]}
    assert {step["name"]: step["key"] for step in steps}["verify[mine]"] == keys["verify[tflite-arm]"]
    assert [step["name"] for step in steps if step["cached"]] == ["preflight[objective]", "preflight[mine]"]


def test_init_does_not_overwrite(cli: Cli, here: Path):
    (here / "edgekd.toml").write_text("mine")
    assert "edgekd.toml" in assert_one_line(cli("init"), 2)
    assert (here / "edgekd.toml").read_text() == "mine"


@pytest.fixture
def litter(here: Path) -> None:
    """Files and folders that are not what a command asks for."""
    (here / "empty").mkdir()
    (here / "file").write_text("x")
    (here / "bad.toml").write_text("name = = 3")
    (here / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    (here / "empty.tflite").write_bytes(b"")
    (here / "text.tflite").write_text("this is not a model, it is text")
    (here / "garbage.tflite").write_bytes(GARBAGE)
    (here / "cut.tflite").write_bytes(GARBAGE[:8])
    (here / "wrong.py").write_text("def f(:\n")
    (here / "list").mkdir()
    for name in ("report.json", "manifest.json"):
        (here / "list" / name).write_text("[1]")


WRONG: dict[str, tuple[tuple[str, ...], int, tuple[str, ...]]] = {
    "unknown verb": (("bulid",), 2, ("bulid",)),
    "unknown option": ((*PLAN, "--recpie", "digits"), 2, ("--recpie",)),
    "option without value": (("plan", "--target"), 2, ("--target",)),
    "no target": (("plan",), 2, ("target",)),
    "no model": (("bench",), 2, ("model",)),
    "extra argument": (("targets", "more"), 2, ("more",)),
    "unknown target": (("plan", "--target", "tflite-ram"), 2, ("'tflite-ram'", "did you mean 'tflite-arm'?")),
    "unknown device": ((*PLAN, "--device", "lokal"), 2, ("'lokal'", "did you mean 'local'?")),
    "unknown recipe": ((*PLAN, "--recipe", "digts"), 2, ("'digts'", "did you mean 'digits'?")),
    "missing recipe": ((*PLAN, "--recipe", "no.toml"), 2, ("no.toml",)),
    "recipe is not TOML": ((*PLAN, "--recipe", "bad.toml"), 2, ("bad.toml", "line 1")),
    "recipe is not text": ((*PLAN, "--recipe", "bytes.toml"), 2, ("bytes.toml",)),
    "unknown key": ((*PLAN, "--set", "distill.temprature=2"), 2, ("distill.temprature", "did you mean 'temperature'?")),
    "missing module": ((*PLAN, "--set", "task.source=nowhere.mod:f"), 2, ("nowhere.mod",)),
    "module does not parse": ((*PLAN, "--recipe", "digits", "--set", "task.source=wrong:f"), 2, ("wrong.py, line 1",)),
    "missing data": ((*PLAN, "--set", "task.data=no-data"), 2, ("no-data",)),
    "missing weights": ((*PLAN, "--set", "student.weights=no.safetensors"), 2, ("no.safetensors",)),
    "init from nothing": (("init", "--recipe", "digts"), 2, ("'digts'", "did you mean 'digits'?")),
    "bench a missing file": (("bench", "no.tflite"), 2, ("no.tflite",)),
    "bench a folder": (("bench", "empty"), 2, ("empty",)),
    "bench an empty file": (("bench", "empty.tflite"), 2, ("empty.tflite", "not a TFLite model")),
    "bench text": (("bench", "text.tflite"), 2, ("text.tflite", "not a TFLite model")),
    "bench garbage": (("bench", "garbage.tflite"), 6, ("garbage.tflite",)),
    "bench a cut file": (("bench", "cut.tflite"), 6, ("cut.tflite",)),
    "bench on nothing": (("bench", "garbage.tflite", "--device", "lokal"), 2, ("did you mean 'local'?",)),
    "unknown protocol": (("bench", "garbage.tflite", "--protocol", "quik"), 2, ("did you mean 'quick'?",)),
    "a protocol for two models": (
        ("bench", "garbage.tflite", "--against", "garbage.tflite", "--protocol", "rapid"),
        2,
        ("--against", "leave out"),
    ),
    "report of an empty folder": (("report", "empty"), 2, ("report.json",)),
    "report of nothing": (("report", "nowhere"), 2, ("nowhere",)),
    "report of a list": (("report", "list"), 2, ("list/report.json",)),
    "verify an empty folder": (("verify", "empty"), 2, ("manifest.json",)),
    "verify nothing": (("verify", "nowhere"), 2, ("nowhere",)),
    "verify a list": (("verify", "list"), 2, ("list/manifest.json",)),
}


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_line(
    arguments: tuple[str, ...], code: int, words: tuple[str, ...], cli: Cli, litter: None
):
    line = assert_one_line(cli(*arguments), code)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    "name", ["unknown verb", "unknown option", "no target", "unknown key", "missing module", "bench garbage"]
)
def test_with_json_an_error_is_one_document(name: str, cli: Cli, litter: None):
    arguments, code, words = WRONG[name]
    run = cli(*arguments, "--json")
    assert run.code == code
    error: dict[str, Any] = run.document["error"]
    assert error["code"] == code
    assert run.stderr == f"edgekd: {error['message']}\n"
    assert all(word in error["message"] for word in words)


def test_debug_shows_the_traceback_and_keeps_the_exit_code(cli: Cli):
    run = cli(*PLAN, "--recipe", "digts", "--debug")
    assert "Traceback" in run.stderr
    assert "did you mean 'digits'?" in run.stderr
    assert run.code == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [("targets",), ("targets", "--json")])
def test_a_result_that_cannot_be_written_is_an_error(arguments: tuple[str, ...], here: Path, tmp_path: Path):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgekd", *arguments],
            cwd=here,
            env=environment(tmp_path),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("edgekd: ")


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_an_unwritable_out_is_refused_before_anything_runs(out: str, cli: Cli, litter: None, tmp_path: Path):
    run = cli("build", "--target", "tflite-arm", "--out", out)
    assert (run.code, run.stdout) == (2, "")
    assert "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1].startswith(f"edgekd: {out}")
    assert not (tmp_path / "store/artifacts").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def laod(task):\n    pass\n", ("mine:load", "did you mean 'laod'?")),
        ("raise RuntimeError('two\\nlines')\n", ("mine:load", "RuntimeError: two lines")),
        ("import not_installed_anywhere\n", ("mine:load", "not_installed_anywhere")),
        ("def load(task):\n    return 5\n", ("mine:load",)),
    ],
    ids=["no such function", "fails", "needs more", "returns nonsense"],
)
def test_a_source_that_does_not_work_ends_the_build(source: str, words: tuple[str, ...], cli: Cli, here: Path):
    (here / "mine.py").write_text(source)
    run = cli("build", "--target", "tflite-arm", "--set", "task.source=mine:load", "--set", "task.args={}")
    assert (run.code, run.stdout) == (2, "")
    assert "Traceback" not in run.stderr
    line = run.stderr.splitlines()[-1]
    assert line.startswith("edgekd: ")
    assert all(word in line for word in words), line


@pytest.mark.parametrize("json_", [True, False])
def test_an_interrupt_says_that_it_can_go_on(json_: bool, here: Path, tmp_path: Path):
    pipe = here / "data"
    os.mkfifo(pipe)
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    arguments = [*PLAN, "--set", "task.data=data", *(["--json"] if json_ else [])]
    process = subprocess.Popen(
        [sys.executable, "-c", code + "from edgekd.cli import main; main()", *arguments],
        cwd=here,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        writer = open_when_read(pipe)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
        os.close(writer)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert stderr.startswith("edgekd: interrupted")
    assert len(stderr.splitlines()) == 1
    assert (json.loads(stdout)["error"]["code"] == 130) if json_ else (stdout == "")


def open_when_read(pipe: Path) -> int:
    """A descriptor for writing, as soon as somebody reads the pipe."""
    for _ in range(200):
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            time.sleep(0.05)
    raise AssertionError(f"nobody reads {pipe}")
