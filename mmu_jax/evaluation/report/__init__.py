"""Tables, plots and the page made of scores."""
