"""Joins the cache and the adapters, and owns nothing they could own; a room for every part of the work."""
