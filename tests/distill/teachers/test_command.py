"""Programs that answer batches: right, late, of another size, and ending half-way."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgekd.distill.teacher_config import Command
from edgekd.distill.teachers.opening import opened
from edgekd.distill.teachers.samples import Samples
from edgekd.errors import GateError, UsageError
from tests.distill.teachers import answering_program
from tests.distill.teachers.small import HERE, ask, model_inputs, refusal, samples_of

PROGRAM = answering_program.__file__


def command(mode: str, folder: Path, **settings: object) -> Command:
    argv = (sys.executable, str(PROGRAM), mode, str(folder))
    return Command(**{"kind": "command", "argv": argv, "version": "1", "timeout": 20.0, **settings})  # type: ignore[arg-type]


def firsts(inputs: np.ndarray) -> np.ndarray:
    """What the program answers."""
    return inputs.reshape(len(inputs), -1)[:, :3]


def test_it_is_started_once_and_answers_every_batch(tmp_path: Path) -> None:
    samples = samples_of()
    with opened(command("right", tmp_path), samples) as (answer, params):
        assert params is None
        for start in (0, 10, 20):
            batch = samples.batch("test", 0, start, start + 10)
            np.testing.assert_allclose(answer(batch), firsts(batch.inputs), rtol=1e-6)
    assert len(list(tmp_path.iterdir())) == 3


def test_classes_in_another_order_are_mapped(tmp_path: Path) -> None:
    found = ask(command("right", tmp_path, labels=("bright", "dark", "grey")))
    np.testing.assert_allclose(found, firsts(model_inputs())[:, [1, 2, 0]], rtol=1e-6)


def test_it_gets_what_the_preprocessing_makes_of_raw_samples(tmp_path: Path) -> None:
    ask(command("right", tmp_path, preprocess=f"{HERE}:channels_last_pixels"))
    assert next(tmp_path.iterdir()).read_text() == "(10, 6, 5, 2)"


def test_a_large_batch_does_not_block(tmp_path: Path) -> None:
    samples = samples_of()
    batch = samples.batch("train", 0, 0, 600)
    np.testing.assert_allclose(ask(command("right", tmp_path), samples, batch), firsts(batch.inputs), rtol=1e-6)


def answers(teacher: Command, samples: Samples) -> None:
    """Two batches, one after the other."""
    with opened(teacher, samples) as (answer, _):
        answer(samples.batch("test", 0, 0, 10))
        answer(samples.batch("test", 0, 10, 20))


def second_answer(teacher: Command) -> str:
    samples = samples_of()
    with pytest.raises(UsageError) as error:
        answers(teacher, samples)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_late_answer_is_not_waited_for(tmp_path: Path) -> None:
    before = time.monotonic()
    message = second_answer(command("late", tmp_path, timeout=1.0))
    assert message == "teacher: no answer to test samples 10 to 19 within 1 seconds; raise 'timeout'"
    assert time.monotonic() - before < 30


def test_one_that_ends_half_way_is_quoted(tmp_path: Path) -> None:
    message = second_answer(command("dies", tmp_path))
    assert message == "teacher: it ended on test samples 10 to 19 with code 1: out of memory"


def test_an_answer_of_fewer_rows_is_refused(tmp_path: Path) -> None:
    assert "of shape (9, 3) to 10 samples" in refusal(command("few", tmp_path))


def test_a_sample_without_an_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="test sample 2 are not finite"):
        ask(command("nan", tmp_path))


def test_an_answer_that_is_cut_is_refused(tmp_path: Path) -> None:
    assert "has 235 bytes of 240" in refusal(command("cut", tmp_path))


def test_an_answer_that_is_no_array_is_refused(tmp_path: Path) -> None:
    assert "no .npy array" in refusal(command("words", tmp_path))


def test_one_that_prints_to_its_output_is_refused(tmp_path: Path) -> None:
    assert "does it print to its output?" in refusal(command("chatty", tmp_path))


@pytest.mark.parametrize("program", ["no-such-program", "."])
def test_one_that_cannot_be_started_is_refused(program: str, tmp_path: Path) -> None:
    message = refusal(Command(kind="command", argv=(program,), version="1"))
    assert message.startswith(f"teacher: {program} cannot be started")


def test_one_that_says_nothing_and_ends_is_refused() -> None:
    assert "ended on test samples 0 to 9 with code 0" in refusal(Command(kind="command", argv=("true",), version="1"))


def test_arguments_are_not_read_by_a_shell(tmp_path: Path) -> None:
    refusal(Command(kind="command", argv=("echo", f"; touch {tmp_path}/harm"), version="1"))
    assert not (tmp_path / "harm").exists()
