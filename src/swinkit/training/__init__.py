"""One loop for every task; ``swinkit.tasks`` brings the data, the losses and the evaluation."""
