"""A check that the installed versions of JAX and Flax fit each other."""

import re


def check_pair(jax: str, flax: str) -> None:
  """Raises if a version of Flax does not import with a version of JAX.

  Flax up to 0.12.9 fails on import with JAX from 0.11.2 on, with an error that
  names neither.

  Args:
    jax: version of JAX, '0.11.2'.
    flax: version of Flax.

  Raises:
    ImportError: names the version to install.

  Example:
    >>> check_pair('0.10.2', '0.12.8')
    >>> check_pair('0.11.2', '0.12.9')
    Traceback (most recent call last):
    ...
    ImportError: flax 0.12.9 does not work with jax 0.11.2; upgrade with: pip \
install 'flax>=0.12.10'
  """
  if _numbers(jax) >= [0, 11, 2] and _numbers(flax) <= [0, 12, 9]:
    raise ImportError(
      f'flax {flax} does not work with jax {jax}; upgrade with: pip install '
      "'flax>=0.12.10'"
    )


def _numbers(version: str) -> list[int]:
  """The first three numbers of a version: '0.12.0.1' -> [0, 12, 0]."""
  return [int(n) for n in re.findall(r'\d+', version)[:3]]
