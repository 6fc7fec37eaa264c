"""What gives a reconstruction from photos its metres: measured distances, GPS positions in the photos, or a factor."""
