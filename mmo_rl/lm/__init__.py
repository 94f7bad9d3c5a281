"""Language models on this machine: loading, chat templates, prefix trees, decoding, weights in training, checkpoints.

Importing a module of this package imports neither torch nor transformers (but for `mmo_rl.lm.cache`).

The last letters of a tensor's name are its dimensions, in order:

======  ================================================================================================
``R``   rows that go through the model together: of a prefix tree, or of answers that are being written
``T``   tokens of a row, padding included
``N``   tokens that are predicted, of several histories one after another
``V``   entries of the vocabulary
``H``   attention heads
``D``   numbers of a head's key or value
``E``   numbers of a hidden state
``1``   one, kept as a dimension
======  ================================================================================================

So ``mask_RTT[r, i, j]`` says that token i of row r attends to its token j.
"""
