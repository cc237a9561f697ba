"""From the dataloaders of a run to images in [0, 1]: which ones, how they are read, what they are called."""
