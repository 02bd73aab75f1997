"""Rows, their prompts and tokens, and the batches made of them. NumPy only."""

import os

# transformers advises, at every import, to install the PyTorch that we do
# without.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
