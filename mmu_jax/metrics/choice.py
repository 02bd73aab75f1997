"""Right or wrong: the two ways to mark an answer without judging its words."""

from mmu_jax.errors import UserError


def _normalise(text: str) -> str:
  """Lower case, one space between words, none around."""
  return ' '.join(text.lower().split())


def exact_match(prediction: str, reference: str) -> bool:
  """Whether the answer is the reference, up to case and whitespace.

  The strictest score: a right fact in other words is wrong. It suits closed
  answers and hides what a model half remembers, so read it beside a score
  with options.

  Args:
    prediction: the model's answer.
    reference: the right answer.

  Returns:
    True if both are the same words in the same order.

  Example:
    >>> exact_match(' Maria  Lopez , cat', 'maria lopez , cat')
    True
    >>> exact_match('cat', 'maria lopez , cat')
    False
  """
  return _normalise(prediction) == _normalise(reference)


def contains(prediction: str, fact: str) -> bool:
  """Whether the answer contains the fact, up to case: the cloze score.

  The protocol of MLLMU-Bench. It is a search for a substring, so 'cat' is
  found in 'Catherine', and an answer that lists every option is right.

  Args:
    prediction: the model's answer.
    fact: the words that carry the knowledge; not empty.

  Returns:
    True if ``fact`` occurs in ``prediction``.

  Raises:
    ValueError: if ``fact`` is blank, for every answer would be right.

  Example:
    >>> contains('Her pet is a Cat.', 'cat')
    True

  References:
    Liu et al., `Protecting Privacy in Multimodal Large Language Models with
    MLLMU-Bench <https://arxiv.org/abs/2410.22108>`_, 2024
  """
  if not fact.strip():
    raise UserError(
      'a cloze fact must hold at least one word, for an empty one is part '
      f'of every answer; got {fact!r}: fill in `fact` of that row'
    )
  return fact.strip().lower() in prediction.lower()
