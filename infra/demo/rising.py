"""A video takes off in the demo's traffic: how soon is it in the lists of users who have nothing to do with it?"""

from __future__ import annotations

import time
from typing import Any

from infra.demo.processes import DemoError
from infra.demo.scene import Scene
from streams.events import Video, VideoView
from streams.publisher import Publisher

#: views of the new video, one each by so many users of its own, within a second
FANS, BURST_S = 60, 1.0
TOP = 10
#: how long lists are looked at after it was in the first one
LOOK_S, WAIT_S = 5.0, 60.0
VIDEO, FAN = "rising", "fan-"


def take_off(bootstrap: str, scene: Scene) -> dict[str, Any]:
    """Publish a new video and a burst of views of it, and look at everybody else's lists.

    Returns:
        `seconds`, from the first view to the first list of an unrelated user with the video among its best `TOP`, and
        `share`, of such users' lists that came in the `LOOK_S` seconds after that, how many have it there.

    Raises:
        DemoError: it was in no such list within `WAIT_S`.
    """
    with Publisher(bootstrap, source="lsvcr/demo", linger_ms=1) as publisher:
        title = next(iter(scene.titles.values()), "something that all like")
        publisher.publish(Video(VIDEO, title, created_ms=int(time.time() * 1000)))
        scene.titles[VIDEO] = title
        publisher.flush()
        began = time.time()
        for number in range(FANS):
            ts_ms = int(time.time() * 1000)
            publisher.publish(VideoView(f"{VIDEO}-{number}", f"{FAN}{number}", VIDEO, ts_ms, 60_000, None, ("like",)))
            time.sleep(BURST_S / FANS)
    until = time.monotonic() + WAIT_S
    while (first := min(_having(scene, began), default=None)) is None:
        if time.monotonic() > until:
            raise DemoError(f"a video that took off was in nobody's best {TOP} within {WAIT_S:.0f} s")
        time.sleep(0.02)
    time.sleep(LOOK_S)
    made = _since(scene, first)
    return {
        "views": FANS,
        "seconds": round(first - began, 2),
        "share": round(sum(having for _, having in made) / max(1, len(made)), 2),
        "lists": len(made),
    }


def _since(scene: Scene, began: float) -> list[tuple[float, bool]]:
    """Of the last list of each unrelated user, if made since then: when, and whether the video is among its best."""
    return [
        (record.generated_ms / 1000, any(item.id == VIDEO for item in record.items[:TOP]))
        for user, record in list(scene.videos.items())
        if not user.startswith(FAN) and record.generated_ms / 1000 >= began
    ]


def _having(scene: Scene, began: float) -> list[float]:
    return [when for when, having in _since(scene, began) if having]
