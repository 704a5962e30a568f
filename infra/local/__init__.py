"""A real Kafka broker and a real Redis on this machine, without Docker, root or Java."""
