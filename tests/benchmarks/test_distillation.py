from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.distillation import plot
from benchmarks.distillation.kept import kept, key_of
from benchmarks.distillation.materials import UNLABELLED, with_few_labels
from benchmarks.distillation.methods import Layers, methods
from benchmarks.distillation.summary import best, document, holm, lines, meets, read
from benchmarks.distillation.tables import ALONE, TEACHER, Demand
from edgekd.distill.objectives import build_objective
from edgekd.report.charts import EXPORTED

SVG = "{http://www.w3.org/2000/svg}"

ROWS = {
    TEACHER: {"all": 95.0},
    ALONE: {"0": 80.0, "1": 82.0, "2": 84.0},
    "soft": {"0": 85.0, "1": 88.0, "2": 88.0},
    "dkd": {"0": 83.0, "1": 80.0, "2": 84.0},
}


def test_gains_are_pairs_of_the_same_seed() -> None:
    by_row = {line.row: line for line in lines(ROWS)}
    gain = by_row["soft"].gain
    assert gain is not None
    assert (gain.mean, gain.smallest) == (5.0, 4.0)
    # t = 5 / (1 / sqrt 3); with two degrees of freedom p = 1 - t / sqrt(t² + 2)
    t = 5.0 * 3**0.5
    assert gain.p == pytest.approx(1.0 - t / (t**2 + 2.0) ** 0.5)
    assert by_row[TEACHER].gain is None
    assert by_row[ALONE].sd == pytest.approx(2.0)


def test_a_gain_that_may_be_noise_is_called_so() -> None:
    by_row = {line.row: line for line in lines(ROWS)}
    assert document(by_row["soft"])["mark"] == "beyond noise, all tests counted"
    assert document(by_row["dkd"])["mark"] == "within noise"


def test_rows_that_are_the_same_differ_by_nothing() -> None:
    made = lines({ALONE: ROWS[ALONE], "soft": ROWS[ALONE]})
    assert document(made[1])["mark"] == "within noise"


def test_the_best_method_meets_what_is_asked_for_or_not() -> None:
    winner = best(lines(ROWS), ["soft", "dkd"])
    assert winner.row == "soft"
    assert meets(winner, Demand(every=4.0))
    assert not meets(winner, Demand(every=4.1))
    assert meets(winner, Demand(mean=5.0))
    assert not meets(winner, Demand(mean=5.1))


def test_rows_are_read_as_they_were_written() -> None:
    made = lines(ROWS)
    assert [read(document(line)) for line in made] == made


def test_the_picture_has_a_panel_for_each_table_and_gains_beyond_noise_in_green(tmp_path: Path) -> None:
    plot.draw({"few labels": lines(ROWS), "all labels": lines(ROWS)}, tmp_path / "tables.svg")
    words = [text.text for text in ElementTree.parse(tmp_path / "tables.svg").iter(f"{SVG}text")]
    assert {"few labels", "all labels"} <= set(words)
    assert [words.count(row) for row in (ALONE, "soft", "dkd", TEACHER)] == [2, 2, 2, 0]
    plot.draw({"none": lines({row: ROWS[row] for row in (TEACHER, ALONE, "dkd")})}, tmp_path / "none.svg")
    assert EXPORTED in (tmp_path / "tables.svg").read_text()
    assert EXPORTED not in (tmp_path / "none.svg").read_text()


def test_holm_multiplies_the_smallest_by_all_and_the_largest_by_one() -> None:
    assert holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])


def test_few_labels_are_spread_over_the_classes_and_drawn_anew_by_each_seed() -> None:
    labels = np.repeat(np.arange(5), 40)
    one, other = (with_few_labels(labels, 20, seed) for seed in (0, 1))
    left = one != UNLABELLED
    assert (one[left] == labels[left]).all()
    assert np.bincount(one[left]).tolist() == [4] * 5
    assert (left != (other != UNLABELLED)).any()


def test_what_was_done_is_not_done_again(tmp_path) -> None:
    file = tmp_path / "students" / f"{key_of([Demand(every=1.0), tmp_path, 0])}.json"
    assert kept(file, lambda: {"accuracy": 0.5}) == {"accuracy": 0.5}
    assert kept(file, lambda: {"accuracy": 0.7}) == {"accuracy": 0.5}


def test_every_method_has_the_hard_loss_beside_it() -> None:
    for name, tables in methods(Layers(("pool", "pool"), ("blocks", "blocks")), temperature=4.0).items():
        losses = build_objective(tables).losses
        assert "hard" in losses, name
        assert len(losses) >= 2, name
