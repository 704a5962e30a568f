"""`lsvcr simulate`: an event log of a made-up platform, or a live stream of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from offline_train.sources.simulator import Simulator
    from streams.events import Record

_SIZE = click.IntRange(min=1)


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the log and oracle.npz.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Same seed, same bytes.")
@click.option("--users", type=_SIZE, default=2_000, show_default=True)
@click.option("--videos", type=_SIZE, default=2_000, show_default=True)
@click.option("--comments", type=_SIZE, default=20_000, show_default=True, help="Besides those that the users write.")
@click.option("--days", type=_SIZE, default=30, show_default=True)
@click.option("--interactions", type=_SIZE, default=60_000, show_default=True, help="Events in the log.")
@click.option("--topics", type=click.IntRange(2, 20), default=16, show_default=True, help="What videos are about.")
@click.option("--end-now", is_flag=True, help="End the log now. Default: it starts on 2025-01-01.")
@click.option("--follow", is_flag=True, help="Write JSON lines to standard output as they happen, after the log's end.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=10,
    show_default=True,
    help="With --follow: records a second, of all topics together.",
)
@click.option(
    "--topic",
    type=click.Choice(["video-views", "comment-interactions", "videos", "comments"]),
    help="With --follow: the topic whose records are written, as for `lsvcr publish - --topic ...`.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def command(
    out: Path | None,
    seed: int,
    users: int,
    videos: int,
    comments: int,
    days: int,
    interactions: int,
    topics: int,
    end_now: bool,
    follow: bool,
    rate: float,
    topic: str | None,
    as_json: bool,
) -> None:
    """Simulate a video platform whose users have interests that drift, with the truth beside it.

    With --out, the log's four JSON Lines files and oracle.npz, which knows what each user wanted at any time. With
    --follow, the same platform live, going on where that log ends:

        lsvcr simulate --follow --rate 50 --topic video-views | lsvcr publish - --topic video-views
    """
    from offline_train.sources.simulator import Simulator, SimulatorConfig

    if (out is None) == (not follow):
        raise click.UsageError("give either --out DIR, for a log, or --follow, for a live stream")
    if follow and topic is None:
        raise click.UsageError("--follow needs --topic: a stream of JSON lines holds the records of one topic")
    try:
        config = SimulatorConfig(
            seed=seed,
            users=users,
            videos=videos,
            comments=comments,
            days=days,
            interactions=interactions,
            topics=topics,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    now_ms = int(time.time() * 1000)
    simulator = Simulator(config.ending_at(now_ms) if end_now or follow else config)
    if out is None:
        _follow(simulator.live(now_ms, rate), str(topic), rate)
    else:
        _write(simulator, out, as_json)


def _write(simulator: Simulator, out: Path, as_json: bool) -> None:
    from infra.cli.convert import print_summary, progress_bars

    with progress_bars() as progress:
        try:
            summary = simulator.write(out, progress).summary
        except OSError as error:
            raise click.ClickException(str(error)) from None
    print_summary(summary, as_json)


def _follow(records: Iterator[tuple[str, Record]], wanted: str, rate: float) -> None:
    from streams.events import encode

    started = time.monotonic()
    output = click.get_binary_stream("stdout")
    try:
        for number, (topic, record) in enumerate(records):
            if topic != wanted:
                continue
            ahead = number / rate - (time.monotonic() - started)
            if ahead > 0:
                time.sleep(ahead)
            output.write(encode(record) + b"\n")
            output.flush()
    except KeyboardInterrupt:
        pass  # how a person ends a stream
    except BrokenPipeError:
        # The reader is gone, which ends the stream as well. Nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
