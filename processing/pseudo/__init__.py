"""Pseudo-labels: further photos of a mapped place become training images, without anybody having measured where they were taken."""
