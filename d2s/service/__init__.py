"""Localization over HTTP: `d2s serve`."""
