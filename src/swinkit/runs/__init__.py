"""One use of the package a file: train, evaluate, export, and the card of a run. The commands and ``swinkit.*`` call these."""
