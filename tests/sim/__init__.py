"""Simulation: a whole cluster in one process under a seeded world, and what checks it."""
