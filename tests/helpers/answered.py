"""Answer records and tasks, for tests of scores."""

import math

from results import make_task

PETS = ('dog', 'parrot', 'cat')
OPTIONS = tuple(f'Maria Lopez keeps a {pet}.' for pet in PETS)
ANSWER = OPTIONS[1]
ALL_WRONG = 'I do not know'


def task(name, role=''):
  """A task whose split and modality are in its name: 'forget_vqa'."""
  made = make_task(name)
  return made._replace(role=role or made.role)


def answer(key='a', kind='generation', protocol='fixed', **fields):
  """A record of one question about a parrot."""
  return {
    'key': key,
    'kind': kind,
    'protocol': protocol,
    'person': f'person of {key}',
    'picture': None,
    'question': f'Q {key}?',
    'answer': ANSWER,
    'fact': 'parrot',
    'options': list(OPTIONS) if kind == 'classification' else [],
    **fields,
  }


def likelihood(of, nll, tokens=1, text=''):
  """The likelihood of one given answer."""
  return {'of': of, 'text': text, 'nll': nll, 'tokens': tokens}


def choice(nll, key='a', tokens=(5, 5, 5), **fields):
  """A record of a question with three options; the second is right."""
  given = [
    likelihood('option', float(x), n, text)
    for x, n, text in zip(nll, tokens, OPTIONS, strict=True)
  ]
  return answer(key, 'classification', likelihoods=given, **fields)


def ratio(value, key='a', **fields):
  """A record of a generated answer with this truth ratio."""
  given = [
    likelihood('answer', 1.0),
    likelihood('paraphrase', 2.0 + math.log(value)),
    likelihood('perturbed', 2.0),
  ]
  return answer(key, likelihoods=given, text=ANSWER, **fields)


def cloze(right, key='a', **fields):
  """A record of a cloze question, answered right (1) or wrong (0)."""
  text = 'a parrot' if right else ALL_WRONG
  return answer(key, 'cloze', text=text, **fields)
