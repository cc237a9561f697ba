"""Show: tables, figures, HTML, W&B. Reads the results files of a run; does no torch work."""
