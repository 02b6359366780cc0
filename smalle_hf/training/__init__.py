"""Parts of `examples/train.py`: arguments, corpus, optimisation, checkpoints, logs, export."""
