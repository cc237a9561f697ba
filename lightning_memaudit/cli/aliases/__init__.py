"""Not imported as a package: a folder on the path of processes that a command starts, see ``cli.twins``."""
