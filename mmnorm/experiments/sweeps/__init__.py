"""Designed sets of short runs: a plan, the queue that works it off, the table of what came of it, its summary."""
