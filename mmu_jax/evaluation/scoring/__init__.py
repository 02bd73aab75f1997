"""Scores computed from answers."""
