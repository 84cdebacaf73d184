"""The replicated state machine, pure: requests in, results and rows out."""
