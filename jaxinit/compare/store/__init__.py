"""Finished runs and what was run, on disk."""
