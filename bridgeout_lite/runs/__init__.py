"""Recorded runs: what a record is, where it came from, how many are made, how they are looked at."""
