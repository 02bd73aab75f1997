"""The synthetic people: who they are, how they look, and the questions."""
