"""The demo in a terminal: events come in on the left, one user's lists change on the right."""

from __future__ import annotations

import time

from rich.console import Group
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from infra.demo.scene import Scene
from streams.events import CommentInteraction, VideoView


def draw(scene: Scene, place: str) -> Layout:
    """One frame. `place`: where Kafka and Redis answer, for the person who wants to look with other tools."""
    layout = Layout()
    layout.split_column(Layout(_head(scene, place), size=4), Layout(name="body"))
    layout["body"].split_row(Layout(_events(scene), ratio=5), Layout(_user(scene), ratio=6))
    return layout


def _head(scene: Scene, place: str) -> Panel:
    seconds = max(time.monotonic() - scene.began, 0.001)
    p50, p99 = scene.latency_ms(50, 99)
    shown = "—" if p50 is None else f"p50 {p50:.0f} ms, p99 {p99:.0f} ms"
    line = (
        f"[bold]{scene.events}[/] events in ({scene.events / seconds:.0f}/s)   "
        f"[bold]{scene.recommendations}[/] lists out   "
        f"[bold]{len(scene.videos)}[/] users   event to list: [bold]{shown}[/]"
    )
    return Panel(Group(Text.from_markup(line), Text(place, style="dim")), title="lsvcr demo", border_style="cyan")


def _events(scene: Scene) -> Panel:
    table = Table.grid(padding=(0, 1))
    table.add_column(style="cyan", no_wrap=True, min_width=5)
    table.add_column(no_wrap=True)
    table.add_column(overflow="ellipsis", no_wrap=True)
    star = scene.star()
    for event in reversed(list(scene.recent)):
        style = "bold yellow" if event.user_id == star else ""
        table.add_row(event.user_id, _what(event), scene.titles.get(event.video_id, event.video_id), style=style)
    return Panel(table, title="events, newest first", border_style="blue")


def _what(event: VideoView | CommentInteraction) -> str:
    if isinstance(event, CommentInteraction):
        return f"{event.action} comment"
    share = (
        f"{100 * event.watch_ms // event.duration_ms:.0f}%" if event.duration_ms else f"{event.watch_ms / 1000:.0f}s"
    )
    return f"watched {share} {' '.join(event.actions or ())}".rstrip()


def _user(scene: Scene) -> Panel:
    star = scene.star()
    if star is None:
        return Panel(Text("waiting for the first list ...", style="dim"), title="recommendations", border_style="green")
    videos, comments = scene.videos[star], scene.comments.get(star)
    known = set(scene.before.get(star, ()))
    parts: list[Text | Table] = [Text(f"next videos for {star}  (new ones in green)", style="bold yellow")]
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim")
    table.add_column(overflow="ellipsis", no_wrap=True)
    for item in videos.items[:10]:
        style = "" if item.id in known else "green"
        table.add_row(f"{item.score:.2f}", Text(scene.titles.get(item.id, item.id), style=style))
    parts.append(table)
    if comments is not None:
        title = scene.titles.get(comments.video_id, comments.video_id)
        parts.append(Text(f"\ncomments under “{title}”", style="bold yellow"))
        under = Table.grid(padding=(0, 1))
        under.add_column(justify="right", style="dim")
        under.add_column(overflow="ellipsis", no_wrap=True)
        for item in comments.items[:6]:
            under.add_row(f"{item.score:.2f}", scene.texts.get(item.id, item.id))
        parts.append(under if comments.items else Text("none that the model knows", style="dim"))
    return Panel(Group(*parts), title=f"model {videos.model_version}", border_style="green")
