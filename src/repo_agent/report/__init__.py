"""The report: one self-contained HTML file that links every figure to its traces."""
