import signal

import pytest

from edgekd.interrupts import heeded_interrupts


def press(*, swallow: bool) -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        if not swallow:
            raise RuntimeError("some library's own error") from None


@pytest.fixture(autouse=True)
def default_handler() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("swallow", [True, False])
def test_what_a_library_makes_of_an_interrupt_does_not_matter(swallow: bool) -> None:
    with pytest.raises(KeyboardInterrupt), heeded_interrupts():
        press(swallow=swallow)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_errors_of_a_block_stay_what_they_are() -> None:
    with pytest.raises(ValueError, match="own"), heeded_interrupts():
        raise ValueError("its own")


def test_who_handles_interrupts_otherwise_keeps_to_it() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        with heeded_interrupts():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert seen == [signal.SIGINT]
