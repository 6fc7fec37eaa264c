"""Predict (poses to disk), score (metrics from disk), report (tables, plots, HTML)."""
