"""An experiment: from settings to results."""
