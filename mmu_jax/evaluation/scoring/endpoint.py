"""Asks a chat-completions endpoint, and asks again where that may help.

The prompt is the caller's own wording. The key is read from the environment
when a question is sent. Replies and errors show ``***`` in its place, and no
error shows a setting that may be a key by mistake.
"""

from collections.abc import Mapping
import http.client
import json
import os
import re
import threading
from typing import Any, NamedTuple
import urllib.error
import urllib.parse
import urllib.request
import warnings

from mmu_jax.errors import UserError
from mmu_jax.settings import rules
from mmu_jax.settings.table import JUDGE

_PATH = '/chat/completions'
_LONGEST_WAIT = 60.0  # seconds, whatever the server asks for
_REFUSED = (401, 403, 404, 405)  # the same for every question
_LOST = (OSError, http.client.HTTPException, ValueError)
_HERE = ('localhost', '127.0.0.1', '::1')


class Failed(Exception):
  """One question was not answered; others may be."""


class Endpoint(NamedTuple):
  """Where to ask, and how patiently.

  Attributes:
    url: ``'https://host/v1'``, with or without ``/chat/completions``.
    model: name of the model there.
    key_variable: name of the environment variable that holds the key; '' for
      a server that wants none. The key itself is never kept or written.
    tries: most attempts at one question, >= 1.
    parallel: questions at a time, >= 1.
    timeout: seconds to wait for an answer.
    first_wait: seconds before the second try; every further wait is twice as
      long.
  """

  url: str
  model: str
  key_variable: str = ''
  tries: int = 5
  parallel: int = 4
  timeout: float = 60.0
  first_wait: float = 1.0


def make_endpoint(settings: Mapping[str, Any]) -> Endpoint | None:
  """Makes an endpoint from checked settings; asks nothing.

  Args:
    settings: fields of ``Endpoint``; an empty ``url`` means no endpoint.

  Returns:
    The endpoint, or None if there is no url.

  Raises:
    ValueError: if a field is unknown, the url is none or holds a secret, the
      model is missing, a number is too low, the key variable is no name of a
      variable or not set, or the key cannot be sent.

  Warns:
    UserWarning: if the key would go unencrypted to another machine.
  """
  rules.check(settings, JUDGE, 'config.evaluation.judge')
  if not settings.get('url'):
    return None
  endpoint = Endpoint(**{'model': '', **settings})
  if not endpoint.model:
    raise UserError(
      'the judge has a url and no model. Set evaluation.judge.model to the '
      'name that the endpoint knows.'
    )
  parts = urllib.parse.urlsplit(endpoint.url)
  if _key(endpoint) and parts.scheme == 'http' and parts.hostname not in _HERE:
    warnings.warn(
      f'the key of the judge goes to {parts.hostname} over http, which '
      'anybody on the way can read. Use https.',
      stacklevel=2,
    )
  return endpoint


def _key(endpoint: Endpoint) -> str:
  """The key, from the environment; errors show neither it nor the setting."""
  name = endpoint.key_variable
  if not name:
    return ''
  key = os.environ.get(name, '').strip()
  if not key:
    raise UserError(
      'the key of the judge is read from the environment variable that '
      'evaluation.judge.key_variable names, which is not set (its name is '
      'not shown: it may be a key). Set it (export it), or set '
      "evaluation.judge.key_variable to '' for a server without keys."
    )
  if not re.fullmatch(r'[!-~\xa1-\xff]+', key):
    raise UserError(
      'the key of the judge is one word of Latin-1 characters; the variable '
      f'{name} holds a space, a line break or another character. Set it to '
      'the key alone.'
    )
  return key


def _hide(text: str, key: str) -> str:
  """A text without the key."""
  return text.replace(key, '***') if key else text


def reply_to(
  endpoint: Endpoint, prompt: str, stop: threading.Event | None = None
) -> str:
  """Asks one question at temperature 0, and again if it may help.

  It asks again after 408, 429, any 5xx, a lost connection, a timeout and a
  reply that is no chat completion, each time after twice the wait (or after
  ``Retry-After``), ``tries`` times in all.

  Args:
    endpoint: server to ask.
    prompt: whole message of the user.
    stop: event that ends the waiting.

  Returns:
    The model's reply; a key in it is replaced by ``***``.

  Raises:
    ValueError: if no question can be answered: the key is gone from the
      environment, or key, address or model are wrong (401, 403, 404, 405, and
      redirections, which would carry the key elsewhere).
    Failed: if there is no answer after all tries, the endpoint does not take
      this question (another 4xx), or ``stop`` was set.
  """
  stop = stop or threading.Event()
  wait, reason, key = 0.0, '', _key(endpoint)
  for trial in range(endpoint.tries):
    if stop.wait(wait):
      raise Failed('stopped')
    wait = endpoint.first_wait * 2**trial
    try:
      return _said(_post(endpoint, prompt, key), key)
    except urllib.error.HTTPError as error:
      reason = _reason(error, key)
      _raise_if_final(endpoint, error, reason)
      wait = max(wait, _asked_wait(error))
    # A lost connection, a timeout while reading, a reply that is none.
    except _LOST as error:
      reason = _hide(_told(error), key)
    wait = min(wait, _LONGEST_WAIT)
  raise Failed(f'{reason}, {endpoint.tries} times')


class _NoRedirect(urllib.request.HTTPRedirectHandler):
  """A redirection would carry the key to another host."""

  def redirect_request(self, *args, **kwargs):
    return None


def _post(endpoint: Endpoint, prompt: str, key: str) -> bytes:
  """Sends one request and returns the body of the reply."""
  url = endpoint.url.rstrip('/')
  headers = {'Content-Type': 'application/json'}
  if key:
    headers['Authorization'] = f'Bearer {key}'
  body = {
    'model': endpoint.model,
    'temperature': 0,
    'messages': [{'role': 'user', 'content': prompt}],
  }
  request = urllib.request.Request(
    url if url.endswith(_PATH) else url + _PATH,
    json.dumps(body).encode(),
    headers,
    method='POST',
  )
  opener = urllib.request.build_opener(_NoRedirect)
  with opener.open(request, timeout=endpoint.timeout) as reply:
    return reply.read()


def _said(body: bytes, key: str) -> str:
  """The text of a chat completion; ValueError if it is none."""
  try:
    text = json.loads(body)['choices'][0]['message']['content']
  except (ValueError, LookupError, TypeError) as error:
    start = _hide(body.decode(errors='replace'), key)[:60]
    raise UserError(f'no chat completion: {start!r}') from error
  if not isinstance(text, str):
    raise UserError('a chat completion without text')
  return _hide(text, key)


def _raise_if_final(endpoint, error, reason: str) -> None:
  """Raises where asking again is of no use."""
  if error.code in _REFUSED or 300 <= error.code < 400:
    key = f', key from {endpoint.key_variable}' if endpoint.key_variable else ''
    raise UserError(
      f'the judge at {endpoint.url} refuses every question: {reason} (model '
      f'{endpoint.model!r}{key}). Check url, model and key; its answers '
      'so far are kept.'
    ) from None  # the server's own words may hold the key
  if error.code < 500 and error.code not in (408, 429):
    raise Failed(reason) from None


def _reason(error: urllib.error.HTTPError, key: str) -> str:
  """``'HTTP 429'``, with the server's own message, without any key."""
  try:
    said = json.loads(error.read(4000))['error']['message']
  except (*_LOST, LookupError, TypeError):
    return f'HTTP {error.code}'
  # Servers repeat the whole or a part of a wrong key in their message.
  said = _hide(str(said), key)
  said = re.sub(r'\S*[\w*-]{20,}\S*|\bsk-\S+', '...', said)
  return f'HTTP {error.code}: {" ".join(said.split())[:160]}'


def _told(error: Exception) -> str:
  """A failed connection in words."""
  cause = getattr(error, 'reason', error)
  if isinstance(cause, TimeoutError):
    return 'no answer in time'
  return f'{cause}' or type(cause).__name__


def _asked_wait(error: urllib.error.HTTPError) -> float:
  """Seconds that ``Retry-After`` asks for; 0 if it does not."""
  text = (error.headers or {}).get('Retry-After', '')
  return float(text) if re.fullmatch(r'\d{1,6}(\.\d+)?', text) else 0.0
