"""Telemetry backend for battery-cell lines: events in, throughput against target and yield out."""
