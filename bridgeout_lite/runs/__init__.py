"""Recorded runs: records, their provenance, the runner of many, and tables of them."""
