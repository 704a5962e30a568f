"""What a broker answers about a topic that was just made."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams.whole_topic import first_and_end


class Forming:
    """A consumer whose partition gets its leader after some answers."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)

    def get_watermark_offsets(self, place: TopicPartition, timeout: float) -> tuple[int, int]:
        if self.errors:
            raise KafkaException(KafkaError(self.errors.pop(0)))
        return 3, 7


def test_a_leader_that_is_being_chosen_is_waited_for() -> None:
    forming = Forming(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
    assert first_and_end(forming, "videos", 0) == (3, 7)  # type: ignore[arg-type]


def test_any_other_answer_is_told_at_once() -> None:
    with pytest.raises(KafkaException):
        first_and_end(Forming(KafkaError.TOPIC_AUTHORIZATION_FAILED), "videos", 0)  # type: ignore[arg-type]
