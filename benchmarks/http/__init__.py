"""The systems of the benchmark `api`, each in a process of its own, and its client."""
