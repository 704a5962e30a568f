"""`lsvcr feed`: what is recommended to whom, now or as it is made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from streams.feed import FeedClient, Recommendations

#: Items in a line of `tail`; `--json` has all.
_TAIL_ITEMS = 5

_redis_option = click.option(
    "--redis-url",
    envvar="LSVCR_REDIS_URL",
    default="redis://localhost:6379/0",
    show_default=True,
    show_envvar=True,
    help="Redis, where the latest lists are.",
)
_bootstrap_option = click.option(
    "--bootstrap-servers",
    envvar="LSVCR_BOOTSTRAP_SERVERS",
    default="localhost:9092",
    show_default=True,
    show_envvar=True,
    help="Kafka's address: host:port, several with commas.",
)
_top_option = click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="Items to show.")
_titles_option = click.option("--titles", is_flag=True, help="Read titles and texts from the catalog topics.")


@click.group()
def command() -> None:
    """Read recommendations, as a feed service would."""


@command.command()
@click.argument("user")
@_redis_option
@_bootstrap_option
@_top_option
@_titles_option
@click.option("--json", "as_json", is_flag=True, help="The whole record as one JSON object, nothing else.")
def videos(user: str, redis_url: str, bootstrap_servers: str, top: int, titles: bool, as_json: bool) -> None:
    """Show the videos recommended to USER, from Redis. Exit code 1 if there are none."""

    async def read(client: FeedClient) -> None:
        record = await client.latest_videos(user)
        if record is None:
            raise click.ClickException(f"no videos are recommended to user {user}: no event of theirs was seen yet")
        await _show(record, bootstrap_servers, top, titles, as_json)

    _run(read, redis_url, bootstrap_servers)


@command.command()
@click.argument("user")
@click.argument("video")
@_redis_option
@_bootstrap_option
@_top_option
@_titles_option
@click.option("--json", "as_json", is_flag=True, help="The whole record as one JSON object, nothing else.")
def comments(
    user: str, video: str, redis_url: str, bootstrap_servers: str, top: int, titles: bool, as_json: bool
) -> None:
    """Show the comments recommended to USER under VIDEO, from Redis.

    Exit code 1 if there are none. One list is kept per user, for the video that they were last on.
    """

    async def read(client: FeedClient) -> None:
        record = await client.latest_comments(user)
        if record is None:
            raise click.ClickException(f"no comments are recommended to user {user}")
        if record.video_id != video:
            raise click.ClickException(f"the comments recommended to user {user} are those of video {record.video_id}")
        await _show(record, bootstrap_servers, top, titles, as_json)

    _run(read, redis_url, bootstrap_servers)


@command.command()
@click.option("--user", help="Only this user's.")
@click.option(
    "--topic",
    "topics",
    multiple=True,
    type=click.Choice(["video-recommendations", "comment-recommendations"]),
    help="Only this topic's. Default: both.",
)
@click.option("--from-beginning", is_flag=True, help="First what Kafka still has.")
@click.option("--limit", type=click.IntRange(1), help="Stop after so many.")
@_redis_option
@_bootstrap_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, nothing else.")
def tail(
    user: str | None,
    topics: tuple[str, ...],
    from_beginning: bool,
    limit: int | None,
    redis_url: str,
    bootstrap_servers: str,
    as_json: bool,
) -> None:
    """Show recommendations as they are made, from Kafka, until interrupted."""

    async def read(client: FeedClient) -> None:
        from streams.recommendations import encode

        left = limit
        async with aclosing(client.stream(*topics, user_id=user, from_beginning=from_beginning)) as stream:
            async for record in stream:
                click.echo(encode(record).decode() if as_json else _line(record))
                if left is not None:
                    left -= 1
                    if left == 0:
                        return

    _run(read, redis_url, bootstrap_servers)


def _run(read: Callable[[FeedClient], Coroutine[Any, Any, None]], redis_url: str, bootstrap_servers: str) -> None:
    import logging

    from streams.feed import FeedClient, FeedError, RecommendationError

    # Its own account of an unreachable broker; ours says the same once.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

    async def session() -> None:
        async with FeedClient(redis_url, bootstrap_servers) as client:
            await read(client)

    try:
        asyncio.run(session())
    except (FeedError, RecommendationError) as error:
        raise click.ClickException(str(error)) from error
    except ValueError as error:  # a URL that redis-py does not understand
        raise click.UsageError(str(error)) from error
    except KeyboardInterrupt:
        pass  # how a tail ends


async def _show(record: Recommendations, bootstrap_servers: str, top: int, titles: bool, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from streams.recommendations import CommentRecommendations, encode

    shown = record.items[:top]
    comments = isinstance(record, CommentRecommendations)
    names = await _titles(bootstrap_servers, comments, {item.id for item in shown}) if titles else {}
    if as_json:
        value = json.loads(encode(record))
        for item in value["items"]:
            if item["id"] in names:
                item["title"] = names[item["id"]]
        click.echo(json.dumps(value, ensure_ascii=False))
        return
    what = f"comments under {record.video_id}" if isinstance(record, CommentRecommendations) else "videos"
    trigger = record.trigger
    columns = [Column("", justify="right"), Column("id", no_wrap=True), Column("score", justify="right")]
    explained = any(item.sr is not None for item in shown)
    if explained:
        columns += [Column(name, justify="right") for name in ("model", "live")]
        columns += [] if comments else [Column("named by")]
    table = Table(
        *columns,
        *(["text" if comments else "title"] if titles else []),
        title=f"{what} for {record.user_id}",
    )
    for rank, item in enumerate(shown, 1):
        cells = [str(rank), item.id, f"{item.score:.4f}"]
        if explained:
            cells += [f"{item.sr or 0:.4f}", f"{item.live or 0:+.4f}"]
            cells += [] if comments else [", ".join(item.sources or ())]
        table.add_row(*cells, *([names.get(item.id, "")] if titles else []))
    console = Console(markup=False, highlight=False)
    console.print(table)
    console.print(
        f"{len(shown)} of {len(record.items)}, by model {record.model_version} ({record.source}), made "
        f"{_moment(record.generated_ms)} after event {trigger.event_id} of {_moment(trigger.ts_ms)}"
    )


def _line(record: Recommendations) -> str:
    from streams.recommendations import CommentRecommendations

    what = f"comments of {record.video_id}" if isinstance(record, CommentRecommendations) else "videos"
    more = f" and {len(record.items) - _TAIL_ITEMS} more" if len(record.items) > _TAIL_ITEMS else ""
    ids = " ".join(item.id for item in record.items[:_TAIL_ITEMS])
    return f"{_moment(record.generated_ms)}  {record.user_id}  {what}: {ids}{more}  [{record.model_version}]"


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def _titles(bootstrap_servers: str, comments: bool, wanted: set[str]) -> dict[str, str]:
    """Titles of videos, or texts of comments, from the catalog topic: read once from beginning to end."""
    from aiokafka import AIOKafkaConsumer, TopicPartition
    from aiokafka.errors import KafkaError

    from streams import events, topics

    topic = topics.COMMENTS if comments else topics.VIDEOS
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap_servers, group_id=None, enable_auto_commit=False)
    names: dict[str, str] = {}
    try:
        await consumer.start()
        places = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        consumer.unsubscribe()  # it was there to learn the partitions; assigned by hand, seeking takes effect at once
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        while any([await consumer.position(place) < ends[place] for place in places]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                for record in batch:
                    key = (record.key or b"").decode("utf-8", "replace")
                    if key not in wanted or not record.value:
                        continue
                    try:
                        entry = events.decode(topic, record.key, record.value, now_ms=0)
                    except events.EventError:
                        continue  # the worker reports these; here the id is shown without a title
                    names[key] = entry.text if isinstance(entry, events.Comment) else entry.title  # type: ignore[union-attr]
    except KafkaError as error:
        raise click.ClickException(f"titles can't be read from Kafka at {bootstrap_servers}: {error}") from error
    finally:
        await consumer.stop()
    return names
