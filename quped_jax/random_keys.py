"""Every number that is folded into a random key, in one register.

A run's root key comes from its seed. The key of client i in round r is
`fold_in(fold_in(root, r), i)`, whatever runs beside it and in whatever order.
What else is random takes a number that no round and no client has, so that two
uses of randomness never share a key. A new use takes a new number here; a
number that is in use must not change, since results would.

Two numbers may be equal if they are folded into different keys. That is so of
`INITIALIZATION` and `SERVER`: the first is folded into the root key, as a
round's number is; the second into the key of a round, as a client's is. It is
also so of the numbers of methods, which are folded into the key that a client
or the server has in a round, and which differ where one method uses two.
"""

# Folded into the root key, in place of a round's number.
INITIALIZATION = 2**31 - 1
EVALUATION = 2**31 - 3  # Then into it: the round, and the client's number.
HELD_OUT_CLIENTS = 2**31 - 4

# Folded into the key of a round, in place of a client's number.
SERVER = 2**31 - 1
SELECTION = 2**31 - 2
DROPOUT = 2**31 - 6

# Folded into the key of a client in a round.
STRAGGLER = 2**31 - 5

# Folded into the key of a client in a round, or into the server's, by methods.
FEDREP_BODY = 2  # Local steps split their key, which folds in 0 and 1.
PUBLIC_DISTILLATION = 101
PUBLIC_ROWS = 102
FEDGEN_GENERATOR = 101
FEDGEN_SERVER = 102
FEDGEN_SAMPLES = 103
FEDBE_SAMPLES = 161
FEDMD_PRETRAINING = 111
PER_FEDAVG_ADAPTATION = 121
INPUT_GENERATOR = 171
ATTACK = 131
COMPRESSION = 161  # Then into it: the number of the message's array.
PRIVACY_NOISE = 141
FEDALA_WEIGHTS = 171

# Folded into the key of a batch, and into that of which batches are drawn.
TRAINING_PASS = 151  # Then into it: the CRC-32 of each name in flax's `rngs`.

# Folded into the key of a draw by chance.
FURTHER_BITS = 0

# Folded into the key of a synthetic dataset, which comes from its seed alone.
SYNTHETIC_MEANS = 0
SYNTHETIC_CLASSES = 1
SYNTHETIC_NOISE = 2
