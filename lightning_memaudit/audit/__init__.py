"""Measure and judge: degradations, metrics, groups, the audit engine and its results files."""
