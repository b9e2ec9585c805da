"""Rounds of plain commands that make a model better, one after another, and a journal of what is done."""
