"""What a model still answers, and the tables, plots and report about it."""
