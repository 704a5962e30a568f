"""Adapters that turn public data sets into lsvcr's events, and the simulator."""
