"""Clusters of real processes under load and under faults."""
