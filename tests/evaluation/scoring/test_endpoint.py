"""An endpoint is asked as often as needed, and its key is shown nowhere."""

import time
import warnings

from judging import KEY
from judging import reply
import pytest

from mmu_jax.evaluation.scoring import endpoint as chat


def test_a_crowded_server_is_asked_again_after_twice_the_wait(serve):
  times = []

  def answer(n, prompt):
    times.append(time.monotonic())
    return (429, '{}') if n < 2 else reply('5')

  stub, endpoint = serve(answer, first_wait=0.1)
  assert chat.reply_to(endpoint, 'x') == '5'
  assert len(stub.asked) == 3
  assert times[1] - times[0] >= 0.1 and times[2] - times[1] >= 0.2


def test_a_server_may_say_how_long_to_wait(serve):
  late = lambda n, prompt: (
    (429, '{}', ('Retry-After', '0.3')) if n == 0 else reply('5')
  )
  _, endpoint = serve(late)
  started = time.monotonic()
  assert chat.reply_to(endpoint, 'x') == '5'
  assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize(
  'body',
  [
    'no json',
    '{"choices": []}',
    '[]',
    '{"choices": [{"message": {"content": null}}]}',
  ],
)
def test_a_malformed_reply_is_asked_for_again(serve, body):
  stub, endpoint = serve(lambda n, p: (200, body) if n == 0 else reply('6'))
  assert chat.reply_to(endpoint, 'x') == '6'
  assert len(stub.asked) == 2


def test_a_slow_server_is_not_waited_for(serve):
  def answer(n, prompt):
    time.sleep(1.5 if n == 0 else 0)
    return reply('9')

  _, endpoint = serve(answer, timeout=0.2)
  started = time.monotonic()
  assert chat.reply_to(endpoint, 'x') == '9'
  assert time.monotonic() - started < 1.5
  _, slow = serve(
    lambda n, p: (time.sleep(0.5), reply('9'))[1], timeout=0.1, tries=2
  )
  with pytest.raises(chat.Failed, match='no answer in time, 2 times'):
    chat.reply_to(slow, 'x')


@pytest.mark.parametrize('key', ['ab\ncd', 'ab cd', 'ab\x7fcd', 'ab\u20accd'])
def test_a_key_that_cannot_be_sent_is_an_error_that_does_not_show_it(
  monkeypatch, key
):
  monkeypatch.setenv('BROKEN_KEY', key)
  with pytest.raises(ValueError, match='variable BROKEN_KEY holds') as error:
    chat.make_endpoint(
      dict(url='https://host/v1', model='m', key_variable='BROKEN_KEY')
    )
  assert 'ab' not in str(error.value).split() and key not in str(error.value)


def test_a_key_over_http_to_another_machine_is_warned_of(monkeypatch):
  monkeypatch.setenv('JUDGE_KEY', KEY)
  settings = dict(model='m', key_variable='JUDGE_KEY')
  with pytest.warns(UserWarning, match='goes to host over http') as found:
    chat.make_endpoint(settings | dict(url='http://host/v1'))
  assert len(found) == 1 and KEY not in str(found[0].message)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    chat.make_endpoint(settings | dict(url='http://localhost:8000/v1'))
    chat.make_endpoint(settings | dict(url='https://host/v1'))
    chat.make_endpoint(dict(url='http://host/v1', model='m'))


def test_a_judge_without_url_is_off():
  assert chat.make_endpoint({}) is None
  assert (
    chat.make_endpoint({'url': '', 'model': 'm', 'key_variable': 'NOT_SET'})
    is None
  )


@pytest.mark.parametrize(
  'settings, words',
  [
    ({'url': 'host/v1'}, 'judge.url is an address that begins with http://'),
    ({'url': 'https:///v1'}, 'judge.url is an address .*not shown'),
    ({'url': 'https://me:secret@host/v1'}, 'holds no user'),
    ({'url': 'https://host/v1?key=secret'}, 'holds no user'),
    ({'model': ''}, 'judge.model'),
    ({'key_variable': 'MY_SECRET'}, 'key_variable names, which is not set'),
    ({'key_variable': 'my_secret'}, 'is the name of an environment variable'),
    ({'key_variable': 'sk-secret'}, 'is the name of an environment variable'),
    ({'tries': 0}, 'judge.tries is a whole number >= 1 .*; got 0'),
    ({'parallel': 0}, 'judge.parallel is a whole number >= 1'),
    ({'timeout': 0}, 'judge.timeout is a number > 0'),
    ({'first_wait': -1}, 'judge.first_wait is a number >= 0'),
    ({'temperature': 1}, "judge has no field 'temperature'"),
  ],
)
def test_wrong_settings_are_errors_before_anything_is_asked(settings, words):
  given = {'url': 'https://host/v1', 'model': 'm'} | settings
  with pytest.raises(ValueError, match=words) as error:
    chat.make_endpoint(given)
  assert 'secret' not in str(error.value).lower()


def test_nothing_listens_is_a_failure_in_words(serve):
  _, endpoint = serve(lambda n, p: reply('2'), tries=2)
  with pytest.raises(chat.Failed, match='refused, 2 times'):
    chat.reply_to(endpoint._replace(url='http://127.0.0.1:9/v1'), 'x')
