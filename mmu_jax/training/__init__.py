"""One loop for every method: an optimizer chain, one turn, many rounds."""
