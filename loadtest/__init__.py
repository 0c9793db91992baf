"""Replay of prompt logs against a running service, and the reports it makes."""
