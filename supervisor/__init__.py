"""The root actor: the tree of children, their restarts, their shutdown, the log."""
