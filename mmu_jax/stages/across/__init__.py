"""Workdirs of several seeds beside each other: their numbers and tables."""
