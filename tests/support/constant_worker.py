"""A worker whose scorer is a constant: everything but scoring. Takes the flags of `lsvcr worker` that it needs."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from streams.history import HistoryConfig
from streams.worker import WorkerSettings, run_app
from tests.support.constant_scorer import ConstantScorer


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--redis-url", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--worker-id", default="0")
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--store", default="rocksdb")
    parser.add_argument("--top-videos", type=int, default=100)
    parser.add_argument("--top-comments", type=int, default=50)
    parser.add_argument("--seen", type=int, default=80)
    parser.add_argument("--standbys", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = WorkerSettings(
        bootstrap_servers=options.bootstrap_servers,
        redis_url=None if options.redis_url == "none" else options.redis_url,
        data_dir=options.data_dir / "workers",
        worker_id=options.worker_id,
        http_port=options.http_port,
        store=options.store,
        standbys=options.standbys,
    )
    scorer = ConstantScorer(options.top_videos, options.top_comments)
    return run_app(settings, scorer, config=HistoryConfig(seen=options.seen), flags=None)


if __name__ == "__main__":
    sys.exit(main())
