"""Augmented copies of training images: other light and other views, with labels that follow from the change itself."""
