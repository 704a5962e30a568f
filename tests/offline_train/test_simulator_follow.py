"""`lsvcr simulate --follow` as a process whose reader goes away; and what the simulator must not import."""

from __future__ import annotations

import subprocess
import sys
import time

from streams import topics
from streams.events import VideoView, decode_value

FOLLOW = ["simulate", "--follow", "--rate", "400", "--topic", "video-views", "--users", "60", "--videos", "100"]
SIZE = ["--comments", "200", "--days", "2", "--interactions", "300"]


def test_lines_come_with_the_time_of_now_until_the_reader_goes() -> None:
    before_ms = int(time.time() * 1000)
    process = subprocess.Popen(
        [sys.executable, "-m", "infra.cli", *FOLLOW, *SIZE], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        lines = [process.stdout.readline() for _ in range(30)]
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 0, errors.decode()
    assert errors == b""
    views = [decode_value(topics.VIDEO_VIEWS, line, now_ms=int(time.time() * 1000)) for line in lines]
    times = [view.ts_ms for view in views if isinstance(view, VideoView)]
    assert times == sorted(times)
    assert len(times) == 30
    assert before_ms <= times[0] <= time.time() * 1000


def test_simulating_needs_neither_torch_nor_sklearn() -> None:
    code = (
        "import sys; from offline_train.sources import simulator, hetrec, kuaicomt, rotten_tomatoes; "
        "print([name for name in ('torch', 'sklearn', 'scipy', 'polars', 'pandas') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
