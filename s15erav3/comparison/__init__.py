"""Comparison of the runs of sweeps: groups over seeds, tables, figures and the page."""
