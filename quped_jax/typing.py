"""Names for the types in signatures of the public interface.

They are for readers, of `help` and of the documentation: what a type checker
could not tell apart anyway, such as the trees of JAX, is `Any` with a name that
says what is in it.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import optax

# A number, or a scalar array, which may be traced.
Number: TypeAlias = float | jax.Array

# The same, or a function of the number of updates so far that returns it, such
# as `optax.cosine_decay_schedule` makes.
NumberOrSchedule: TypeAlias = float | jax.Array | optax.Schedule

# A tree of arrays, such as parameters or batch-norm statistics.
Tree: TypeAlias = Any

# A tree of `Codebook`s that mirrors one of parameters, as `init_codebooks`
# makes it: `optax.MaskedNode()` where a tensor is not quantized.
Codebooks: TypeAlias = Any

# Says which parameters are quantized, by a path such as "hidden_1/kernel".
Predicate: TypeAlias = Callable[[str], bool]

# Bits of all quantized tensors; or of single ones, by patterns of their paths.
BitsByPath: TypeAlias = int | jax.Array | Mapping[str, int]

# A file or a folder.
Path: TypeAlias = str | os.PathLike[str]
