"""Settings that the data decide: rows of a batch, rounds, forget turns."""
