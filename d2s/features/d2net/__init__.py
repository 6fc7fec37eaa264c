"""D2-Net (Dusmanu et al. 2019) as a local feature: one network describes and detects. Training it has a folder of its own, `d2s/d2net`."""
