"""What the commands share: options, settings by name, errors of one line."""
