"""Readers of datasets on disk: files in, rows out."""
