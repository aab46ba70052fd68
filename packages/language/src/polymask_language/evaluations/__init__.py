"""Measures of runs, beside the probes that all have."""
