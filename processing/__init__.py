"""Offline work: photos and poses of any data set become a scene on disk. Imports d2s; d2s never imports it."""
