"""Checkpoints in the Hugging Face format, in and out."""
