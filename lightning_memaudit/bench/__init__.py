"""Measurements that anyone can rerun: speed, what each piece of the method pays, the paper's comparisons."""
