"""`linesim`: the simulators' command line. Heavy modules are imported by the commands, so that --help is quick."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mes.errors import MesError
from simulators import cli_describe
from simulators.cli_throughput import throughput

if TYPE_CHECKING:
    from simulators.conditions import Conditions
    from simulators.connection import BrokerUrl
    from simulators.run import Options
    from simulators.scenario import Scenario

SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 120}


class _Speed(click.ParamType[float | None]):
    """Times real time, or max."""

    name = "number|max"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if value is None or isinstance(value, float):
            return value
        if value == "max":
            return None
        try:
            speed = float(value)
        except ValueError:
            speed = -1.0
        if not 0 < speed <= 100_000:
            self.fail(f"{value!r} is neither 'max' nor a number above 0 and up to 100000, such as 60", param, ctx)
        return speed


def _option(*names: str, env: str, **more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(*names, envvar=env, show_envvar=True, **more)


_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_DAYS = click.IntRange(1, 3660)
_line = _option("--line", env="MES_LINE", required=True, help="Line: its path, code or site, as `linesim list` shows them.")
_seeds = _option("--seeds", env="MES_SEEDS", type=_FOLDER, show_default="seeds", help="Folder with the plant's TOML files.")
_start = _option(
    "--start",
    env="MES_START",
    type=click.DateTime(["%Y-%m-%d"]),
    show_default="yesterday at the site",
    help="First production day, YYYY-MM-DD.",
)
_origin = _option(
    "--origin",
    env="MES_ORIGIN",
    type=click.DateTime(["%Y-%m-%d"]),
    show_default="first of the month of --start",
    help="Production day on which the line begins, in silence up to --start: days of one origin and seed are the same however made.",
)
_ramp_up = _option(
    "--ramp-up",
    env="MES_RAMP_UP",
    type=click.FloatRange(0, 1),
    default=None,
    show_default="as the scenario says, else 0",
    help="0 is a mature line; at 0.5 its machines fail and its defects come 3 times as often, at 1 5 times.",
)
_conditions = _option(
    "--scenario", env="MES_SCENARIO", type=_FILE, help="File with [[disturbance]] and [[fault]]: what happens to the line and its messages."
)
_ledger = _option("--ledger", env="MES_LEDGER", type=_FILE, help="File for the truth: counts of what was generated.")


def _seeds_folder(given: Path | None) -> Path:
    if given is not None:
        return given
    here = Path("seeds")
    beside = Path(__file__).resolve().parent.parent / "seeds"
    return here if here.is_dir() or not beside.is_dir() else beside


def _scenario(seeds: Path | None, line: str) -> Scenario:
    from simulators import scenario

    return scenario.load(_seeds_folder(seeds), line)


def _under(path: Path | None, scenario: Scenario, ramp_up: float | None) -> Conditions:
    import msgspec

    from simulators import conditions

    found = conditions.load(path, scenario) if path else conditions.NONE
    return found if ramp_up is None else msgspec.structs.replace(found, ramp_up=ramp_up)


@click.group(context_settings=SETTINGS)
def cli() -> None:
    """Simulated battery-cell lines: they make events as the machines of a plant would, and publish them."""


@cli.command("list")
@_seeds
def list_lines(seeds: Path | None) -> None:
    """Show the lines of the seeds folder."""
    from rich.console import Console
    from rich.table import Table

    from mes.seeds import load_plant

    whole = load_plant(_seeds_folder(seeds))
    table = Table("line", "name", "product", "stations", "machines", "target a day")
    for line in sorted(whole.lines.values(), key=lambda entry: entry.path):
        plan = max((t for t in whole.targets if t.line == line.path), key=lambda t: t.from_, default=None)
        machines = sum(s.machines for s in line.station)
        target = f"{plan.cells_per_day:,}" if plan else "-"
        table.add_row(line.path, line.name, line.product, str(len(line.station)), f"{machines:,}", target)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@cli.command()
@_option("--line", env="MES_LINE", help="Line: its path, code or site, as `linesim list` shows them.")
@_option("--from", "file", env="MES_FROM", type=_FILE, help="Publish this file of `linesim generate` instead of running a line.")
@_start
@_option("--days", env="MES_DAYS", type=_DAYS, show_default="1, with --catch-up until stopped", help="Production days to run.")
@_option("--speed", env="MES_SPEED", type=_Speed(), default="60", help="Simulated seconds a second, or max.")
@_option("--seed", env="MES_SEED", type=int, show_default="that of the state, else 1", help="The same seed gives the same bytes.")
@_origin
@_ramp_up
@_conditions
@_option("--boot", env="MES_BOOT", type=click.IntRange(1, 2**31 - 1), show_default="as the state says, else 1", help="Restart count.")
@_seeds
@_option("--broker", env="MES_BROKER_URL", default="mqtt://127.0.0.1:1883", help="mqtt(s)://[user:password@]host[:port].")
@_option("--broker-ca", env="MES_BROKER_CA", type=_FILE, show_default="the system's", help="Authority to trust with mqtts://, PEM.")
@_option("--broker-cert", env="MES_BROKER_CERT", type=_FILE, help="Certificate of this client, PEM: of the line, or of a machine.")
@_option("--broker-key", env="MES_BROKER_KEY", type=_FILE, help="Its private key, PEM.")
@_option(
    "--certificates", env="MES_CERTIFICATES", type=_FOLDER, help="Folder of `mes pki`: a connection for each machine, with its certificate."
)
@_option("--window", env="MES_WINDOW", type=click.IntRange(1, 10_000), default=200, help="Most publishes unacknowledged.")
@_option(
    "--state", env="MES_STATE", type=_FOLDER, help="Folder of the machines' journals, for the next start; without it they are temporary."
)
@_option(
    "--marks/--no-marks",
    env="MES_MARKS",
    default=True,
    help="Keep events until the backend says committed, or until the broker has acknowledged them.",
)
@_option(
    "--fsync",
    env="MES_FSYNC",
    type=click.Choice(["always", "interval", "never"]),
    default="never",
    help="When journals are forced to disk: before publishing, each second, as the system likes.",
)
@_option("--catch-up", env="MES_CATCH_UP", is_flag=True, help="Run at --speed up to the present, then in real time.")
@_option("--progress", env="MES_PROGRESS", type=click.Choice(["table", "json", "none"]), default="table", help="Each second.")
@_ledger
def run(**given: Any) -> None:
    """Run a line: publish its events to the broker; or publish a file that `linesim generate` has written."""
    from dataclasses import replace

    from mes.tls import Credentials
    from simulators.connection import BrokerUrl

    credentials = Credentials(*(given[key] for key in ("broker_ca", "broker_cert", "broker_key")))
    broker = replace(BrokerUrl.parse(given["broker"]), credentials=credentials)
    if given["certificates"] is None:
        credentials.context(broker.tls)  # what is wrong is said before a line is built
    elif given["file"] is not None or not broker.tls or credentials.cert is not None:
        raise click.UsageError("--certificates is for a line at an mqtts:// broker: leave out --from, --broker-cert and --broker-key")
    if given["file"] is not None:
        _replay(given["file"], broker, given)
        return
    if given["line"] is None:
        raise click.UsageError("say which line: --line, or a file with --from")
    scenario = _scenario(given["seeds"], given["line"])
    conditions = _under(given["scenario"], scenario, given["ramp_up"])
    start, origin = (given[key].date() if given[key] else None for key in ("start", "origin"))
    if conditions.fault:
        if given["catch_up"] or given["state"] or given["boot"]:
            raise click.UsageError("faults are for a run with an end: leave out --catch-up, --state and --boot, and say --days")
        with tempfile.TemporaryDirectory(prefix="linesim-") as folder:
            from simulators.files import generate as write

            file = Path(folder) / "events.ndjson"
            write(scenario, start, given["days"] or 1, given["seed"] or 1, file, given["ledger"], origin, conditions)
            _replay(file, broker, given)
        return
    from mes.seeds import load_plant
    from simulators.run import Options

    _run(
        Options(
            scenario=scenario,
            start=start,
            origin=origin,
            conditions=conditions,
            targets=load_plant(_seeds_folder(given["seeds"])).targets,
            days=given["days"] or (None if given["catch_up"] else 1),
            broker=broker,
            **{
                key: given[key]
                for key in ("speed", "seed", "boot", "window", "marks", "fsync", "state", "catch_up", "ledger", "certificates")
            },
        ),
        given["progress"],
    )


def _replay(file: Path, broker: BrokerUrl, given: dict[str, Any]) -> None:
    from dataclasses import asdict

    from simulators.replay import Replay, iso

    replay = Replay(file, broker, given["speed"], given["window"], given["marks"], lambda text: click.echo(text, err=True))
    if given["progress"] == "table":
        from rich.progress import Progress

        with Progress() as bar:
            task = bar.add_task(file.name, total=replay.figures.items)
            asyncio.run(replay.run(lambda f: bar.update(task, completed=f.acked, description=f"{file.name} {iso(f.at_ms)}")))
    else:
        asyncio.run(replay.run((lambda f: _print_json(asdict(f))) if given["progress"] == "json" else _print_nothing))
    done = replay.figures
    if given["progress"] != "none":
        last = "all committed" if done.committed else "the broker has all" if done.finished else "stopped before the end"
        click.echo(f"{done.items:,} messages in the file, {done.acked:,} acknowledged: {last}", err=True)


def _run(options: Options, progress: str) -> None:
    from simulators.run import Runner

    runner = Runner(options, lambda text: click.echo(text, err=True))
    runner.prepare()
    if progress == "table":
        from rich.console import Console
        from rich.live import Live

        from simulators.screen import running

        with Live(console=Console(), auto_refresh=False) as live:
            room = live.console.size if live.console.is_terminal else None
            asyncio.run(runner.run(lambda figures: live.update(running(figures, room and live.console.size), refresh=True)))
    else:
        asyncio.run(runner.run(_print_json if progress == "json" else _print_nothing))


def _print_json(figures: dict[str, Any]) -> None:
    click.echo(json.dumps(figures))


def _print_nothing(_: Any) -> None:
    pass


@cli.command("compile")
@_seeds
def compile_kernels(seeds: Path | None) -> None:
    """Compile the kernels into their cache, so that the first run need not wait."""
    from mes.seeds import load_plant
    from simulators.scenario import Scenario
    from simulators.stream import Stream

    whole = load_plant(_seeds_folder(seeds))
    line = next(iter(whole.lines.values()))
    Stream(Scenario(line, whole.sites[line.site]), 1, dt.date(2026, 1, 1)).compile()


@cli.command()
@_line
@_start
@_option("--days", env="MES_DAYS", type=_DAYS, default=1, help="Production days to generate.")
@_option("--seed", env="MES_SEED", type=int, default=1, help="The same seed gives the same bytes.")
@_origin
@_ramp_up
@_conditions
@_seeds
@_option("--out", env="MES_OUT", type=_FILE, required=True, help="File to write, F.ndjson or F.parquet.")
@_ledger
def generate(
    line: str,
    start: dt.datetime | None,
    days: int,
    seed: int,
    origin: dt.datetime | None,
    ramp_up: float | None,
    scenario: Path | None,
    seeds: Path | None,
    out: Path,
    ledger: Path | None,
) -> None:
    """Write a line's events to a file in order of time: NDJSON, one {"topic": ..., "event": ...} a line, or Parquet, a row each."""
    of = _scenario(seeds, line)
    conditions = _under(scenario, of, ramp_up)
    from simulators.files import generate as write

    write(of, start.date() if start else None, days, seed, out, ledger, origin.date() if origin else None, conditions)


cli.add_command(throughput)
cli.add_command(cli_describe.command(_seeds, _seeds_folder, _scenario))


def main() -> None:
    """Entry point: errors are one line, exit 2; a signal before the run has begun ends it quietly."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cli(standalone_mode=False)
    except click.ClickException as why:
        click.echo(f"linesim: {why.format_message()}", err=True)
        sys.exit(2)
    except MesError as why:
        click.echo(f"linesim: {why}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(0)
