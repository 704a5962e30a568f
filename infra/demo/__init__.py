"""The demo: the whole path on this machine, with simulated traffic, to be watched."""
