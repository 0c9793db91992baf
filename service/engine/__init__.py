"""The engine: joint batches of jobs at different steps."""
