"""What a network can be trained to do. A task is a folder here and a row in ``table.py``; ``base.py`` says what it brings.

Nothing outside asks which task it is: the predictor, the training loop, the commands and the cards ask the task's object.
Tasks do not import one another.
"""
