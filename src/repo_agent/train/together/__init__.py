"""Training at Together: rows up, a price, one job, an adapter down; each stage on record before the next begins."""
