"""Brings results to the user: tables, figures and pages. Measures nothing."""
