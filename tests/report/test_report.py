"""The report's page, opened in a real browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Built, edgekd

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


def browse(page: Path, profile: Path, *arguments: str) -> str:
    assert BROWSER
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={profile}",
            *arguments,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize(("why_not_valid", "pictures"), [(None, 3), ("a spread of 9.1 %", 2)])
def test_the_page_shows_what_the_json_says(
    digits: Built, tmp_path: Path, why_not_valid: str | None, pictures: int
) -> None:
    document = json.loads((digits.home / "report.json").read_text())
    artifact = document["artifacts"][0]
    artifact["measurements"][0] |= {"valid": why_not_valid is None, "why_not_valid": why_not_valid}
    (tmp_path / "report.json").write_text(json.dumps(document))
    assert edgekd(tmp_path, "report", ".").code == 0
    page = browse(tmp_path / "report.html", tmp_path / "profile", "--dump-dom")
    text = re.sub(r"<[^>]+>", " ", page)
    assert f"{100 * artifact['accuracy']['exported']:.2f}" in text
    assert f"{artifact['quantizers']['exact']} of {artifact['quantizers']['learned']} exact" in text
    assert artifact["sha256"] in text
    assert page.count("<svg") == pictures
    assert (f"not valid: {why_not_valid}" in text) == (why_not_valid is not None)


@pytest.mark.browser
@needs_browser
def test_the_page_has_a_picture(digits: Built, tmp_path: Path) -> None:
    shot = tmp_path / "page.png"
    browse(digits.home / "report.html", tmp_path / "profile", f"--screenshot={shot}", "--window-size=1100,1500")
    assert shot.read_bytes().startswith(b"\x89PNG")
    assert shot.stat().st_size > 20_000


def test_the_page_needs_nothing_else(digits: Built) -> None:
    page = (digits.home / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", page.replace("xlink:href", "link"))
    assert "<script" not in page
    assert "@import" not in page


def test_report_makes_the_same_page_again(digits: Built, tmp_path: Path) -> None:
    shutil.copy(digits.home / "report.json", tmp_path / "report.json")
    run = edgekd(tmp_path, "report", ".", "--json")
    assert run.code == 0, run.stderr
    assert Path(tmp_path, run.document["report"]).read_text() == (digits.home / "report.html").read_text()


def test_a_share_of_latency_is_that_of_the_build_machine(digits: Built, tmp_path: Path) -> None:
    document = json.loads((digits.home / "report.json").read_text())
    document["artifacts"][0]["accuracy"]["compressed"] = 0.9
    share = {"ratio": 0.637, "runtime": "ai-edge-litert", "on": "this machine"}
    bought = {"params": [900, 500], "macs": [8000, 4000], "accuracy": [0.9, 0.7, 0.9], "latency": share}
    settings = {"kind": "prune", "latency": 0.65, "rounds": 1, "protect": []}
    entry = {"config": {"compression": settings}, "bought": bought, "sparsity": {"zeros": 0.0}}
    (tmp_path / "report.json").write_text(json.dumps({**document, "compression": [entry]}))
    assert edgekd(tmp_path, "report", ".").code == 0
    page = (tmp_path / "report.html").read_text()
    assert "8,000 → 4,000" in page
    assert "63.70 % of the latency, measured on the build machine, in ai-edge-litert" in page


def test_names_from_a_recipe_cannot_inject_markup(digits: Built, tmp_path: Path) -> None:
    document = json.loads((digits.home / "report.json").read_text())
    document["artifacts"][0]["title"] = "<script>alert(1)</script>"
    (tmp_path / "report.json").write_text(json.dumps(document))
    assert edgekd(tmp_path, "report", ".").code == 0
    assert "<script>" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"recipe": "x", "artifacts": []}'])
def test_a_damaged_report_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content)
    run = edgekd(tmp_path, "report", ".")
    assert run.code == 2
    assert len(run.stderr.splitlines()) == 1
    assert not (tmp_path / "report.html").exists()
