"""The command line: each verb parses, calls, prints. Nothing heavy is imported before a verb runs."""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd import processes
from edgekd.errors import EdgekdError, UsageError
from edgekd.processes import Crew

app = typer.Typer(
    name="edgekd",
    help="From a large teacher to a small student that is proven on the device it will live on.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
devices = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(devices, name="devices")

RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", metavar="FILE|NAME", help="Default: edgekd.toml here, else the built-in digits."),
]
TargetOption = Annotated[
    list[str], typer.Option("--target", metavar="T", help="What to make; may be given repeatedly.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe, as in distill.weight=0.5."),
]
DeviceOption = Annotated[
    list[str] | None, typer.Option("--device", metavar="D", help="Measure on this device instead of the target's own.")
]
OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results go.")]
DeviceArgument = Annotated[str, typer.Argument(help="A device's name, or a TOML file of yours.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

UNEXPECTED, INTERRUPTED, WRONG_USAGE = 1, 130, 2


@app.command()
def build(
    target: TargetOption,
    recipe: RecipeOption = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    out: OutOption = Path("build"),
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Distil, quantize, export, check and measure; publish what passed."""
    from edgekd.commands import build_command, follow_command

    asked = (recipe, target, set_ or [], device or [])
    _run_in_all(lambda crew: build_command(*asked, out, crew), lambda crew: follow_command(*asked, crew), json_, debug)


@app.command()
def plan(
    target: TargetOption,
    recipe: RecipeOption = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what a build would run and what is there already; run nothing."""
    from edgekd.commands import plan_command

    _run(lambda: plan_command(recipe, target, set_ or [], device or []), json_, debug)


@app.command()
def verify(
    artifact_dir: Annotated[Path, typer.Argument(help="A published target, such as build/digits/tflite-arm.")],
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check a published target again: digests, scales, golden outputs, delegation."""
    from edgekd.commands import verify_command

    _run(lambda: verify_command(artifact_dir), json_, debug)


@app.command()
def bench(
    model: Annotated[Path, typer.Argument(help="Any .tflite, .onnx or .xml file, not only edgekd's.")],
    device: Annotated[str, typer.Option("--device", metavar="D", help="Where to measure.")] = "local",
    protocol: Annotated[
        str | None, typer.Option("--protocol", metavar="P", help="brief, rapid, quick (the default) or full.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option("--samples", metavar="FILE", help="Keep the raw run times here, as .npy.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="MODEL2", help="Run both in turns and give the ratio."),
    ] = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure latency, load time, memory and energy of a model on a device."""
    from edgekd.commands import against_command, bench_command

    def measured() -> Any:
        if against is None:
            return bench_command(model, device, protocol or "quick", samples)
        if (protocol, samples) != (None, None):
            raise UsageError("--against: two models in turns have a protocol of their own; leave out the other options")
        return against_command(model, against, device)

    _run(measured, json_, debug)


@app.command()
def report(
    build_dir: Annotated[Path, typer.Argument(help="The folder of a finished build, such as build/digits.")],
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make the report's page again from report.json."""
    from edgekd.commands import report_command

    _run(lambda: report_command(build_dir), json_, debug)


@app.command()
def init(
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME", help="The built-in recipe to start from.")
    ] = "digits",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a commented edgekd.toml here."""
    from edgekd.commands import init_command

    _run(lambda: init_command(recipe), json_, debug)


@app.command()
def targets(json_: JsonOption = False, debug: DebugOption = False) -> None:
    """List what can be made."""
    from edgekd.commands import targets_command

    _run(targets_command, json_, debug)


@devices.callback(invoke_without_command=True)
def devices_(context: typer.Context, json_: JsonOption = False, debug: DebugOption = False) -> None:
    """List where it can be measured, or set up and calibrate a device."""
    from edgekd.commands import devices_command

    if context.invoked_subcommand is None:
        _run(devices_command, json_, debug)


@devices.command()
def setup(device: DeviceArgument, json_: JsonOption = False, debug: DebugOption = False) -> None:
    """Fetch and build all that a device needs on this machine."""
    from edgekd.commands import setup_command

    _run(lambda: setup_command(device), json_, debug)


@devices.command()
def calibrate(device: DeviceArgument, json_: JsonOption = False, debug: DebugOption = False) -> None:
    """Measure a device's memory bandwidth and peak rates, and keep them for its bound."""
    from edgekd.commands import calibrate_command

    _run(lambda: calibrate_command(device), json_, debug)


@app.command()
def doctor(json_: JsonOption = False, debug: DebugOption = False) -> None:
    """Say what is installed, what is missing for which target, and the command that mends it."""
    from edgekd.commands import doctor_command

    _run(doctor_command, json_, debug)


def main() -> None:
    """Run the command line; every way it can end has its exit code and one line."""
    from typer.exceptions import TyperException

    as_json = "--json" in sys.argv[1:]
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        code = app(standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except TyperException as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        code = _fail(f"{message} See edgekd --help.", WRONG_USAGE, as_json)
    sys.exit(code or 0)


def _run_in_all(lead: Callable[[Crew | None], Any], follow: Callable[[Crew], None], as_json: bool, debug: bool) -> None:
    """Call a command in each process of a launch. One leads: the others say nothing, and end with its exit code."""
    if processes.fewer_than_asked():
        print(
            "edgekd: accelerate launch started one process only, as it does without GPUs; "
            "for several add --multi_gpu, with or without GPUs, or use torchrun",
            file=sys.stderr,
        )
    try:
        crew = processes.join()
    except EdgekdError as error:
        raise typer.Exit(_fail(*_explain(error), as_json)) from None
    if crew is None:
        _run(lambda: lead(None), as_json, debug)
    elif not crew.leads:
        processes.leave(_followed(crew, follow))
    else:
        code = 0
        try:
            _run(lambda: lead(crew), as_json, debug)
        except typer.Exit as stop:
            code = stop.exit_code
        crew.end(code)
        processes.leave(code)


def _followed(crew: Crew, follow: Callable[[Crew], None]) -> int:
    """The exit code of a process that follows. It speaks only where it failed and the leader did not."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        failed: tuple[str, int] | None = None
        try:
            follow(crew)
        except (Exception, KeyboardInterrupt) as error:
            failed = _explain(error)
        code = crew.ended()
    if code is not None:
        return code
    message, code = failed or ("the main process of this launch is gone", UNEXPECTED)
    crew.fail(message, code)
    return _fail(message, code, as_json=False)


def _run(command: Callable[[], Any], as_json: bool, debug: bool) -> None:
    """Call a command, print its result, and turn whatever goes wrong into one line and an exit code."""
    try:
        result = command()
        _print(json.dumps(result.document, indent=1) if as_json else result.text)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        raise typer.Exit(_fail(*_explain(error), as_json)) from None
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def _explain(error: BaseException) -> tuple[str, int]:
    """The line and the exit code of an error. A short write has neither file name nor error number."""
    if isinstance(error, EdgekdError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command goes on where it was", INTERRUPTED
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        what = error.strerror or f"No space left on device ({error})"
        return f"{where}{what}; make room or choose another folder; nothing was published", WRONG_USAGE
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"unexpected {text}; run again with --debug and report it", UNEXPECTED


def _fail(message: str, code: int, as_json: bool) -> int:
    line = " ".join(message.split())
    print(f"edgekd: {line}", file=sys.stderr)
    if as_json:
        with contextlib.suppress(OSError):
            _print(json.dumps({"error": {"code": code, "message": line}}))
    return code


def _print(text: str) -> None:
    """Print at once. Where stdout cannot take it, stdout is given up, so that nothing is tried again at the end."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
