"""What flows: events, per-user state, the worker that re-scores it, and the clients around it."""
