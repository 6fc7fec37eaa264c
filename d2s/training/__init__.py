"""Batches, augmentation, schedule, trainer, checkpoints, tracking."""
