"""Device profiles: what comes along holds together, a user's file is one TOML, and wrong ones are refused by key."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.config import read_text
from edgekd.device import Device, DeviceProfile, device_label, device_names, load_device, require_host
from edgekd.errors import UsageError
from edgekd.resources import DEVICES

MINE = """
title = "My board"
runner = "ssh"
timing = "measured"
architecture = "aarch64"

[ssh]
host = "board.local"

[hardware]
cpu = "4x A53"
cores = 4
float32_flops_per_s = 57.6e9
sources = ["computed"]

[power]
source = "hwmon"
label = "VDD_IN"
idle_watts = 1
active_watts = 2.5
sources = ["a meter"]
"""
CSV = """
[power]
source = "csv"
[power.csv]
file = "meter.csv"
time = "time"
"""
BOARDS = ["raspberry-pi-4", "raspberry-pi-5", "jetson-orin-nano", "imx8m-mini"]

Written = Callable[..., str]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def write(*changes: tuple[str, str], name: str = "mine.toml", text: str = MINE) -> str:
        for before, after in changes:
            assert before in text
            text = text.replace(before, after, 1)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def refusal(name: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_device(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", device_names())
def test_every_device_that_comes_along_holds_together(name: str) -> None:
    profile = load_device(name)
    assert profile == load_device(str(DEVICES / f"{name}.toml"))
    assert device_label(name) == device_label(str(DEVICES / f"{name}.toml")) == name
    assert profile.title


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_s_rates_are_what_its_sources_say(name: str) -> None:
    """Cores, frequency and operations a cycle, as written in the source, multiply to the figure beside it."""
    hardware = load_device(name).hardware
    assert hardware is not None
    assert hardware.frequency_hz is not None
    for key, figure in (("float32", hardware.float32_flops_per_s), ("int8", hardware.int8_ops_per_s)):
        (source,) = (one for one in hardware.sources if one.startswith(f"{key}: "))
        said = re.match(r"\w+: (\d+) cores x ([\d.]+) GHz x (\d+) operations a cycle", source)
        assert said is not None
        assert int(said[1]) == hardware.cores
        assert float(said[2]) * 1e9 == pytest.approx(hardware.frequency_hz)
        assert int(said[1]) * float(said[2]) * 1e9 * int(said[3]) == pytest.approx(figure)


def test_boards_are_reached_by_ssh_at_a_host_that_the_user_gives() -> None:
    for name in BOARDS:
        profile = load_device(name)
        assert (profile.runner, profile.timing, profile.architecture) == ("ssh", "measured", "aarch64")
        with pytest.raises(UsageError) as caught:
            require_host(name, profile)
        assert f'like = "{name}"' in str(caught.value)


def test_what_the_error_says_to_write_works(written: Written) -> None:
    name = written(text='like = "raspberry-pi-5"\nssh.host = "10.0.0.7"\n')
    profile, base = load_device(name), load_device("raspberry-pi-5")
    assert require_host(name, profile) == "10.0.0.7"
    assert (profile.hardware, profile.power, profile.title) == (base.hardware, base.power, base.title)
    assert profile.ssh is not None
    assert profile.ssh.port == 22


def test_a_file_that_is_like_another_says_only_what_differs(written: Written) -> None:
    text = (
        'like = "jetson-orin-nano"\ntitle = "Mine"\nssh.host = "j"\n[hardware]\nmemory_bandwidth_bytes_per_s = 102e9\n'
    )
    profile, base = load_device(written(text=text)), load_device("jetson-orin-nano")
    assert profile.title == "Mine"
    assert profile.hardware is not None
    assert base.hardware is not None
    assert profile.hardware.memory_bandwidth_bytes_per_s == 102e9
    assert profile.hardware.cores == base.hardware.cores


def test_a_file_of_the_users_is_a_device(written: Written) -> None:
    profile = load_device(written())
    assert isinstance(profile, DeviceProfile)
    assert Device is DeviceProfile
    assert (profile.title, profile.runner, profile.architecture) == ("My board", "ssh", "aarch64")
    assert profile.power is not None
    assert (profile.power.source, profile.power.label, profile.power.idle_watts) == ("hwmon", "VDD_IN", 1.0)


def test_the_host_that_is_missing_in_a_file_is_asked_for_by_key(written: Written) -> None:
    name = written(('host = "board.local"', ""))
    with pytest.raises(UsageError, match=r"'ssh\.host' is missing"):
        require_host(name, load_device(name))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("host =", "hots ="), ("ssh.hots", "did you mean 'host'?")),
        (("cores = 4", "cores = 4\nfrequncy_hz = 1"), ("hardware.frequncy_hz", "did you mean 'frequency_hz'?")),
        (("idle_watts = 1", "idle_wats = 1"), ("power.idle_wats", "did you mean 'idle_watts'?")),
        (("title =", "runer = 1\ntitle ="), ("'runer'", "did you mean 'runner'?")),
        (('runner = "ssh"', 'runner = "shh"'), ("runner", "'shh'")),
        (('"measured"', '"guessed"'), ("timing", "'guessed'")),
        (('"aarch64"', '"arm64"'), ("architecture", "'arm64'")),
        (('architecture = "aarch64"', ""), ("architecture: it is missing",)),
        (('"board.local"', '"-oProxyCommand=x"'), ("ssh.host", "-oProxyCommand=x")),
        (('"board.local"', '"a b"'), ("ssh.host",)),
        (('"board.local"', '"a;reboot"'), ("ssh.host",)),
        (('"board.local"', '"b"\nport = 70000'), ("ssh.port", "70000")),
        (('"board.local"', '"b"\nuser = "$(id)"'), ("ssh.user",)),
        (("cores = 4", "cores = 0"), ("hardware.cores", "0")),
        (("57.6e9", "-1"), ("hardware.float32_flops_per_s",)),
        (("57.6e9", "inf"), ("hardware.float32_flops_per_s",)),
        (('sources = ["computed"]', ""), ("hardware", "sources")),
        (('sources = ["a meter"]', ""), ("power", "sources")),
        (("active_watts = 2.5", "active_watts = 1.0"), ("power", "above idle_watts")),
        (("active_watts = 2.5", ""), ("power", "both or neither")),
        (('source = "hwmon"', 'source = "csv"'), ("power", "[power.csv]")),
        (('source = "hwmon"', 'source = "rapl"'), ("power", "label")),
        (('source = "hwmon"', 'source = "hwmn"'), ("power.source", "'hwmn'")),
        (('runner = "ssh"', 'runner = "local"'), ("ssh", 'runner = "local"')),
        (('runner = "ssh"', 'runner = "emulator"'), ("ssh",)),
        (("[ssh]", "[ssh"), ("not valid TOML",)),
        (('title = "My board"', 'like = "raspbery-pi-5"'), ("'like'", "did you mean 'raspberry-pi-5'?")),
        (('title = "My board"', "like = 5"), ("'like'", "5")),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) and len(value) == 2 else None,
)
def test_what_does_not_fit_is_told_by_file_and_key(
    change: tuple[str, str], words: tuple[str, ...], written: Written
) -> None:
    name = written(change)
    message = refusal(name)
    assert message.startswith(name)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("", "'watts'"),
        ('volts = "V"', "'watts'"),
        ('watts = "W"\namps = "A"', "either"),
        ('watts = "W"\ntime_unit = "min"', "time_unit"),
        ('wats = "W"', "did you mean 'watts'?"),
    ],
)
def test_a_meter_needs_its_columns(columns: str, words: str, written: Written) -> None:
    text = MINE[: MINE.index("[power]")] + CSV
    assert load_device(written(text=f'{text}watts = "W"\n')).power is not None
    assert words in refusal(written(text=text + columns + "\n"))


@pytest.mark.parametrize("runner", ["emulator", "board"])
def test_emulated_time_is_not_measured(runner: str, written: Written) -> None:
    text = f'title = "E"\nrunner = "{runner}"\ntiming = "emulated"\narchitecture = "aarch64"\n'
    text += f'[{runner}]\ncpu = "cortex-a72"\n'
    assert load_device(written(text=text)).timing == "emulated"
    assert "timing" in refusal(written(('"emulated"', '"measured"'), text=text))
    assert f"{runner}: " in refusal(written((f'[{runner}]\ncpu = "cortex-a72"\n', ""), text=text))


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    assert "did you mean 'raspberry-pi-5'?" in refusal("rasberry-pi-5")
    assert "known: " in refusal("zzz")


@pytest.mark.parametrize("name", ["../targets/tflite-arm", "", ".", "raspberry-pi-5/"])
def test_a_name_is_no_path(name: str) -> None:
    assert "is not known" in refusal(name)


@pytest.mark.parametrize("name", ["..toml", ".toml", "my board.toml", "-x.toml", "a:b.toml"])
def test_a_file_whose_name_is_none_for_a_file_of_ours_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=re.escape(name)):
        device_label(name)


def test_a_missing_file_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(str(tmp_path / "gone.toml"))
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refusal(str(tmp_path / "mine.toml"))


def test_every_figure_has_a_source() -> None:
    for name in BOARDS:
        profile = load_device(name)
        assert profile.hardware is not None
        assert profile.power is not None
        assert profile.hardware.sources
        assert profile.power.sources
        assert f'like = "{name}"' in read_text(DEVICES / f"{name}.toml")
