"""Local features: image -> keypoints, scores, descriptors. Knows nothing of training."""
