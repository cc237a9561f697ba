"""The state of objects that nobody here wrote, taken before an audit and put back after it."""
