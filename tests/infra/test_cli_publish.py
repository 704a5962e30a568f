"""`lsvcr publish`, as an operator calls it."""

import gzip
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.topic_reader import read_topic

from infra.cli import main
from streams import topics


def invoke(*arguments: str, code: int, stdin: bytes | None = None) -> Any:
    result = CliRunner().invoke(main, ["publish", *arguments], input=stdin)
    assert result.exit_code == code, result.output
    return result


def view(name: str, number: int) -> dict[str, Any]:
    return {
        "event_id": f"{name}-e{number}",
        "user_id": f"{name}-u{number % 3}",
        "video_id": "v",
        "ts_ms": 1,
        "watch_ms": 1,
    }


def lines(*records: Any) -> bytes:
    return b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in records)


@pytest.mark.integration
def test_a_folder_is_published_and_wrong_lines_are_reported(kafka: str, tmp_path: Path) -> None:
    name = uuid.uuid4().hex
    views = lines(b"\xef\xbb\xbf" + lines(view(name, 0)).strip(), b"", *(view(name, n) for n in range(1, 30)), b"{oops")
    (tmp_path / "video-views.jsonl").write_bytes(views)
    catalog = lines({"video_id": f"{name}-v", "title": "A"}, {"video_id": f"{name}-w"}, {"video_id": "", "title": "B"})
    (tmp_path / "videos.jsonl.gz").write_bytes(gzip.compress(catalog))
    rejects = tmp_path / "rejects"
    arguments = [str(tmp_path), "--bootstrap-servers", kafka, "--rejects", str(rejects), "--json"]
    report = json.loads(invoke(*arguments, code=1).stdout)
    assert (report["accepted"], report["rejected"], report["failed"], report["stopped"]) == (31, 3, 0, None)
    assert [(Path(file["path"]).name, file["topic"]) for file in report["files"]] == [
        ("videos.jsonl.gz", "videos"),
        ("video-views.jsonl", "video-views"),
    ]
    wrong = [(reject["line"], reject["code"], reject["field"]) for reject in report["rejects"]]
    assert wrong == [(2, "missing-field", "title"), (3, "invalid-field", "video_id"), (32, "not-json", None)]
    assert [json.loads(line)["value"] for line in rejects.read_text().splitlines()][2] == "{oops"
    arrived = [r.value() for r in read_topic(kafka, topics.VIDEO_VIEWS) if (r.key() or b"").decode().startswith(name)]
    assert sorted(json.loads(value)["event_id"] for value in arrived) == sorted(f"{name}-e{n}" for n in range(30))


@pytest.mark.integration
def test_standard_input_at_a_rate(kafka: str) -> None:
    name = uuid.uuid4().hex
    stdin = lines(*(view(name, number) for number in range(20)))
    arguments = ["-", "--topic", "video-views", "--rate", "1000", "--bootstrap-servers", kafka]
    assert "20 accepted, 0 rejected" in invoke(*arguments, stdin=stdin, code=0).stdout


def test_a_dry_run_needs_no_kafka_and_shows_the_first_wrong_lines(tmp_path: Path) -> None:
    path = tmp_path / "comments.jsonl"
    path.write_bytes(lines(*({"comment_id": "c", "video_id": "v"} for _ in range(25))))
    output = invoke(str(path), "--dry-run", "--bootstrap-servers", "localhost:1", code=1).stdout
    assert f"{path}:1: missing-field: text: required field is missing" in output
    assert f"{path}:20: " in output
    assert f"{path}:21: " not in output
    assert "... and 5 more: --rejects FILE writes them all" in output
    assert "0 correct, 25 rejected" in output


def test_a_damaged_archive_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "video-views.jsonl.gz"
    path.write_bytes(gzip.compress(lines(*(view(str(uuid.uuid4()), n) for n in range(2000))))[:-2000])
    report = json.loads(invoke(str(path), "--dry-run", "--json", code=1).stdout)
    assert 0 < report["accepted"] < 2000
    assert "can't be decompressed after line" in report["stopped"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["-"], "give --topic"),
        (["-", "--topic", "clicks"], "there are events for video-views"),
        ([str(Path(__file__).parent)], "has no file named after a topic"),
        ([__file__], "the topic of"),
        ([], "Missing argument"),
    ],
)
def test_wrong_usage(arguments: list[str], says: str) -> None:
    assert says in invoke(*arguments, code=2).output


def test_a_broker_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "video-views.jsonl"
    path.write_bytes(b"")
    output = invoke(str(path), "--bootstrap-servers", "localhost:1", code=1).output
    assert "no Kafka broker answers at localhost:1" in output
