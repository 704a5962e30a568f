"""`python -m infra.cli`: the `lsvcr` command where it is not installed."""

from infra.cli import main

main()
