"""Get images back: pure torch, no Lightning; takes any callable autoencoder."""
