"""From rows to tokens and pixels."""
