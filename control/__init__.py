"""troupectl: looks at a running troupe through its control mailboxes and shared counters."""
