"""Loads that ask for the same again: what a cache keeps, shares and gives back, as a client sees it."""
