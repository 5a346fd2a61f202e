"""Runs of sweeps side by side: groups over seeds, tables, figures, the page."""
