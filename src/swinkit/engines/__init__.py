"""Who computes: images to raw outputs. Below evaluation and prediction, which both ask here. A place is kept for exports."""
