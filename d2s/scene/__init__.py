"""The files of a scene: manifest, feature store, label store. Every file is published by rename."""
