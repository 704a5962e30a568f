"""Running it: the command line, the local Kafka and Redis, deployment files."""
