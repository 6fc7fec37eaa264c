"""D2-Net as a system of its own, on top of the features: extraction into files and kapture trees."""
