"""pytest-trouped: break a member, or run one of its actors alone, in your own tests.

Fixtures: `isolated_actor`, `member`, `cluster` (see pytest_trouped.plugin).
"""
