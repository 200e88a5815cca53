"""Methods that choose which keys and values are kept."""
