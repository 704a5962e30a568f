"""How large a simulation is, and its seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from offline_train.sources.population import DAY_MS
from offline_train.sources.sessions import LOAD, MEAN_VIEWS
from offline_train.sources.vocabulary import TOPICS

EVENTS_PER_SESSION = MEAN_VIEWS * 1.4  #: about; a timeline corrects itself as it goes
_MOST_SEEN_BYTES = 4 << 30


@dataclass(frozen=True)
class SimulatorConfig:
    """Size and seed of a simulation.

    Raises:
        ValueError: so many events don't fit so few users, days or videos.
    """

    seed: int = 1
    users: int = 2_000
    videos: int = 2_000  #: two in five are there at the start, the others appear during the days
    comments: int = 20_000  #: besides those that the users write (about one in fifty events)
    days: int = 30
    interactions: int = 60_000  #: events of the log, both kinds; some less only where hardly any user has joined
    topics: int = 16
    start_ms: int = 1_735_689_600_000  #: 2025-01-01

    def __post_init__(self) -> None:
        for name in ("users", "comments", "days", "interactions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed must be from 0 to 2^63 - 1, not {self.seed}")
        if not 2 <= self.topics <= len(TOPICS):
            raise ValueError(f"topics must be from 2 to {len(TOPICS)}, not {self.topics}")
        if not 20 <= self.videos <= 1 << 22:
            raise ValueError(f"videos must be from 20 to {1 << 22:,}, not {self.videos}")
        busiest = self.interactions / EVENTS_PER_SESSION / self.days * LOAD.max()
        if busiest > 0.6 * self.users:
            raise ValueError(
                f"{self.interactions:,} interactions of {self.users:,} users in {self.days} days are more than they "
                f"can make; take at least {int(busiest / 0.6) + 1:,} users or more days"
            )
        if self.interactions / self.users > 0.3 * self.videos:
            raise ValueError(
                f"{self.interactions:,} interactions of {self.users:,} users would use up {self.videos:,} videos, each "
                f"watched once; take at least {int(self.interactions / self.users / 0.3) + 1:,} videos"
            )
        if self.users * self.videos / 8 > _MOST_SEEN_BYTES:
            raise ValueError("users x videos must be at most 2^35: who has seen what is held in memory")

    def ending_at(self, now_ms: int) -> SimulatorConfig:
        """The same simulation, moved in time so that its log ends at `now_ms`."""
        return replace(self, start_ms=now_ms - self.days * DAY_MS)
