"""Raft consensus as a pure function of messages: no clock, no chance, no I/O, no logging."""
