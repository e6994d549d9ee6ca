"""Pre-training without labels: SimMIM (arXiv 2111.09886)."""
