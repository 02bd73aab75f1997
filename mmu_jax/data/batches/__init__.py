"""From examples to batches, packed, shuffled, and made ahead."""
