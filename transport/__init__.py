"""Mailboxes, streams between actors, their codec and their shared counters."""
