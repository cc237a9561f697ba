"""What was found and what it proves: rows, files, intervals, judgement, verdict. Numpy and scipy, never torch."""
