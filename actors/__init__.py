"""One module, one actor, one process."""
