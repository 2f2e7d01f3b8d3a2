import pytest

from edgekd.distill.schedules import at, constant, cosine, linear


def test_a_number_is_a_schedule_that_stays() -> None:
    assert [at(4.0, progress) for progress in (0.0, 0.5, 1.0)] == [4.0, 4.0, 4.0]
    assert [at(constant(4.0), progress) for progress in (0.0, 0.5, 1.0)] == [4.0, 4.0, 4.0]


@pytest.mark.parametrize(("progress", "value"), [(0.0, 8.0), (0.25, 6.5), (0.5, 5.0), (1.0, 2.0)])
def test_linear(progress: float, value: float) -> None:
    assert at(linear(8.0, 2.0), progress) == pytest.approx(value)


@pytest.mark.parametrize(("progress", "value"), [(0.0, 8.0), (1 / 3, 6.5), (0.5, 5.0), (2 / 3, 3.5), (1.0, 2.0)])
def test_cosine(progress: float, value: float) -> None:
    assert at(cosine(8.0, 2.0), progress) == pytest.approx(value)
    assert at(cosine(2.0, 8.0), 1.0 - progress) == pytest.approx(value)
