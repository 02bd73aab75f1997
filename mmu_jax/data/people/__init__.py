"""The synthetic people: who they are, how they look, what is asked."""
