"""What must hold after all events were handled, whatever happened meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

from redis import Redis
from support.topic_reader import changelog_states, fold, latest, without_origin

from streams import recommendations
from streams.events import Event
from streams.history import DEFAULT, HistoryConfig
from streams.latest import list_key
from streams.recommendations import Kind, Recommendations

KINDS: tuple[Kind, ...] = ("videos", "comments")


def check_states(bootstrap: str, log: Sequence[Event], config: HistoryConfig = DEFAULT) -> None:
    """Every user's state in the changelog is the fold of the log: no event lost, none applied twice."""
    expected = fold(log, config)
    found = {user: without_origin(state) for user, state in changelog_states(bootstrap).items()}
    assert found.keys() == expected.keys()
    different = [user for user, state in expected.items() if found[user] != state]
    assert not different, f"{len(different)} of {len(expected)} users differ, e.g. {different[:3]}"


def last_lists(bootstrap: str, kind: Kind) -> dict[str, Recommendations]:
    """Every user's last list on the topic."""
    values = latest(bootstrap, recommendations.TOPIC_OF[kind])
    return {user: recommendations.decode(kind, value) for user, value in values.items()}


def check_triggers(bootstrap: str, log: Sequence[Event]) -> None:
    """Every user's last list, of both kinds, covers the user's last event."""
    expected = {user: state.newest.event_id for user, state in fold(log, DEFAULT).items() if state.newest}
    for kind in KINDS:
        found = {user: value.trigger.event_id for user, value in last_lists(bootstrap, kind).items()}
        assert found == expected, f"{kind}: lists that do not cover the last event"


def check_redis(bootstrap: str, redis_url: str) -> None:
    """Redis holds exactly the last list of every user."""
    with Redis.from_url(redis_url) as redis:
        for kind in KINDS:
            expected = latest(bootstrap, recommendations.TOPIC_OF[kind])
            with redis.pipeline(transaction=False) as pipeline:
                for user in expected:
                    pipeline.hget(list_key(kind, user), "value")
                found = dict(zip(expected, pipeline.execute(), strict=True))
            different = [user for user, value in expected.items() if found[user] != value]
            assert not different, f"{kind}: {len(different)} of {len(expected)} differ in Redis, e.g. {different[:3]}"
