"""Degrade, recover, measure: torch, no Lightning. ``audit()`` lives in ``engine.py``."""
