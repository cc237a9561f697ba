"""One recovery method a file; ``registry.py`` gives them their names."""
