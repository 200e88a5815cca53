"""Methods that choose which keys are computed; the cache stays whole."""
