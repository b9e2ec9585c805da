"""Runs into conclusions: arms, metrics per task, paired statistics, the verdict. Reads run folders, runs no model."""
