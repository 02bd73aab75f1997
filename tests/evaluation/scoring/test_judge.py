"""A judge is asked once about each answer, and scores within its scale."""

import json
import time

import answered
from judging import KEY
from judging import reply
import pytest

from mmu_jax import workdir
from mmu_jax.evaluation.scoring import judge


def _predictions(number=3):
  return [
    answered.answer(
      str(i),
      person=f'p{i // 2}',
      question=f'Where does {i} live?',
      answer='In Oslo.',
      text=f'In {{Rome}} {i}.',
    )
    for i in range(number)
  ]


def _asked(**answers):
  """Tasks by name, with their answers."""
  return [(answered.task(name), found) for name, found in answers.items()]


def test_an_answer_is_asked_once_at_temperature_0_and_found_again(
  serve, tmp_path
):
  stub, endpoint = serve(lambda n, prompt: reply('7'))
  cache = tmp_path / 'judge.jsonl'
  verdicts = judge.ask_judge(endpoint, _predictions(), cache)
  assert [v.score for v in verdicts] == [7.0] * 3
  path, authorization, body = stub.asked[0]
  assert path == '/v1/chat/completions'
  assert authorization == f'Bearer {KEY}'
  assert (body['model'], body['temperature']) == ('judge-1', 0)
  assert judge.ask_judge(endpoint, _predictions(), cache) == verdicts
  assert len(stub.asked) == 3
  other = endpoint._replace(model='judge-2')
  judge.ask_judge(other, _predictions(), cache)
  assert len(stub.asked) == 6


def test_equal_questions_are_asked_once(serve, tmp_path):
  stub, endpoint = serve(lambda n, prompt: reply('4'))
  twice = _predictions(2) * 3
  verdicts = judge.ask_judge(endpoint, twice, tmp_path / 'judge.jsonl')
  assert [v.score for v in verdicts] == [4.0] * 6
  assert len(stub.asked) == 2


def test_the_judge_reads_question_reference_and_answer(serve, tmp_path):
  stub, endpoint = serve(lambda n, p: reply('7'))
  judge.ask_judge(endpoint, _predictions()[1:2], tmp_path / 'judge.jsonl')
  ((_, _, body),) = stub.asked
  for text in ('Where does 1 live?', 'In Oslo.', 'In {Rome} 1.', '1 to 10'):
    assert text in body['messages'][0]['content']


def test_500_forever_leaves_a_row_without_a_score_and_counts_it(
  serve, tmp_path, capsys
):
  broken = lambda n, p: (500, '{}') if 'Where does 1' in p else reply('8')
  stub, endpoint = serve(broken, tries=3)
  results = judge.factuality(
    endpoint,
    _asked(forget_vqa=_predictions(4)),
    tmp_path,
    tmp_path / 'judge.jsonl',
    run='ga',
    step=5,
  )
  found = {row['metric']: row for row in results}
  assert (found['factuality']['value'], found['factuality']['n']) == (8.0, 3)
  assert found['factuality_unscored']['value'] == 0.25
  assert len(stub.asked) == 3 + 3
  said = capsys.readouterr().out
  assert 'judge ga: 1 of 4 answers have no score' in said
  assert '1 x HTTP 500, 3 times' in said
  rows = workdir.read_jsonl(tmp_path / 'forget_vqa.judged.jsonl')
  assert [row['score'] for row in rows] == [8.0, None, 8.0, 8.0]
  assert rows[1]['reason'] == 'HTTP 500, 3 times'


def test_a_dead_server_is_given_up_after_ten_answers(serve, tmp_path):
  stub, endpoint = serve(lambda n, p: (503, '{}'), tries=2, parallel=1)
  cache = tmp_path / 'judge.jsonl'
  verdicts = judge.ask_judge(endpoint, _predictions(40), cache)
  assert all(v.score is None for v in verdicts)
  assert 20 <= len(stub.asked) <= 24
  reasons = [v.reason for v in verdicts]
  assert reasons.count('HTTP 503, 2 times') == 10
  assert reasons.count('not asked after too many failures') == 30


@pytest.mark.parametrize('status', [401, 403, 404, 302])
def test_a_wrong_key_is_an_error_at_once_that_does_not_show_it(
  serve, tmp_path, status
):
  said = json.dumps({'error': {'message': f'Incorrect API key: {KEY}.'}})
  stub, endpoint = serve(
    lambda n, p: (status, said, ('Location', 'http://127.0.0.1:9/')), parallel=2
  )
  with pytest.raises(ValueError, match=f'HTTP {status}.*JUDGE_KEY') as error:
    judge.ask_judge(endpoint, _predictions(30), tmp_path / 'judge.jsonl')
  assert len(stub.asked) <= 6
  assert KEY not in str(error.value)


@pytest.mark.parametrize('status', [200, 400, 401, 500])
def test_a_key_that_a_server_repeats_is_hidden(
  serve, tmp_path, monkeypatch, capsys, status
):
  """Any key, also one that has not the shape of a key."""
  monkeypatch.setenv('JUDGE_KEY', 'tiny.key')
  said = 'x' * 53 + ' tiny.key'
  error = json.dumps({'error': {'message': 'not tiny.key, is it'}})
  replies = {200: [reply('7 tiny.key'), (200, said)]}
  replies = replies.get(status, [(status, error)])
  for said_by in replies:
    _, endpoint = serve(lambda n, p: said_by, tries=1)
    cache = tmp_path / f'{replies.index(said_by)}.jsonl'
    try:
      judge.factuality(
        endpoint,
        _asked(forget_qa=_predictions()),
        tmp_path,
        cache,
        run='ga',
        step=0,
      )
    except ValueError as error:
      assert 'tiny' not in str(error) and '***' in str(error)
      assert error.__suppress_context__
    else:
      texts = [path.read_text() for path in tmp_path.glob('*.jsonl')]
      assert '***' in ''.join(texts) and 'tiny' not in ''.join(texts)
    assert 'tiny' not in ''.join(capsys.readouterr())


def test_a_question_that_is_refused_is_not_asked_again(serve, tmp_path):
  refused = json.dumps({'error': {'message': 'filtered'}})
  stub, endpoint = serve(
    lambda n, p: (400, refused) if 'does 0' in p else reply('3')
  )
  verdicts = judge.ask_judge(endpoint, _predictions(), tmp_path / 'judge.jsonl')
  assert [v.score for v in verdicts] == [None, 3.0, 3.0]
  assert verdicts[0].reason == 'HTTP 400: filtered'
  assert len(stub.asked) == 3


def test_no_more_questions_are_under_way_than_allowed(serve, tmp_path):
  def answer(n, prompt):
    time.sleep(0.05)
    return reply('2')

  stub, endpoint = serve(answer, parallel=3)
  judge.ask_judge(endpoint, _predictions(12), tmp_path / 'judge.jsonl')
  assert stub.most_at_once == 3


def test_a_key_is_in_no_file(serve, tmp_path):
  _, endpoint = serve(lambda n, p: reply('2'))
  judge.factuality(
    endpoint,
    _asked(forget_qa=_predictions()),
    tmp_path,
    tmp_path / 'c.jsonl',
    run='ga',
    step=0,
  )
  written = ''.join(p.read_text() for p in tmp_path.rglob('*') if p.is_file())
  assert written and KEY not in written and KEY not in repr(endpoint)


def test_a_cut_off_line_of_the_cache_is_asked_for_again(serve, tmp_path):
  stub, endpoint = serve(lambda n, p: reply('2'))
  cache = tmp_path / 'judge.jsonl'
  judge.ask_judge(endpoint, _predictions(), cache)
  cache.write_text(cache.read_text()[:-20])
  with pytest.warns(UserWarning, match='line 3 is cut off'):
    verdicts = judge.ask_judge(endpoint, _predictions(), cache)
  assert [v.score for v in verdicts] == [2.0] * 3
  assert len(stub.asked) == 4
  assert len(workdir.read_jsonl(cache)) == 3


def test_a_cache_that_cannot_be_written_is_an_error_with_a_next_step(
  serve, tmp_path
):
  _, endpoint = serve(lambda n, p: reply('2'))
  cache = tmp_path / 'judge.jsonl'
  cache.symlink_to(tmp_path / 'gone' / 'judge.jsonl')
  with pytest.raises(OSError, match='cannot be written.*Free space') as error:
    judge.ask_judge(endpoint, _predictions(), cache)
  assert str(cache) in str(error.value)


@pytest.mark.parametrize(
  'reply, score',
  [
    ('7', 7),
    (' 7.\n', 7),
    ('10', 10),
    ('**8**', 8),
    ('7/10', 7),
    ('Score: 3 out of 10.', 3),
    ('{"score": 6}', 6),
    ('7.5', 7.5),
    ('On a scale from 1 to 10: 4', 4),
    ('Rating (1-10): 5', 5),
    ('<think>maybe 2, or 9?</think>\n6', 6),
    ('Two of 3 facts are right.\nScore: 6', 6),
    ('Score: 4, no: Score: 5', 5),
    ('I give a score of 10 out of 10', 10),
    ('score of 10', 10),
    ('a score of 10.', 10),
    ('The rating of 10 is right', 10),
    ('A score of 8 of 10', 8),
    ('**8** / 10', 8),
    ('Out of 10: 8', 8),
    ('0', None),
    ('11', None),
    ('100', None),
    ('', None),
    ('six', None),
    ('4 or 5', None),
    ('70%', None),
    ('-3', None),
    ('1995', None),
  ],
)
def test_a_score_is_read_or_left_out(reply, score):
  assert judge.read_score(reply) == score


def test_the_interval_stays_on_the_scale():
  predictions = _predictions(20)
  for score in (1.0, 10.0):
    verdicts = [judge.Verdict(score)] * 20
    row, _ = judge.average(
      predictions, verdicts, task=answered.task('forget_qa'), run='ga', step=1
    )
    assert row['value'] == score and row['split'] == 'forget'
    assert 1 <= row['low'] <= score <= row['high'] <= 10
    assert 1 < row['high'] - row['low'] < 2  # Wilson of 20, times 9
  mixed = [judge.Verdict(float(s)) for s in (1, 4, 10, 7) * 5]
  row, unscored = judge.average(
    predictions, mixed, task=answered.task('forget_qa'), run='ga', step=1
  )
  assert (row['value'], row['n'], unscored['value']) == (5.5, 20, 0)
  assert row['low'] < 5.5 < row['high']


def test_options_and_blanks_are_not_judged(serve, tmp_path):
  stub, endpoint = serve(lambda n, p: reply('2'))
  rows = _predictions(2)
  rows[0]['kind'] = 'classification'
  results = judge.factuality(
    endpoint,
    _asked(forget_qa=rows, real_faces=rows[:1]),
    tmp_path,
    tmp_path / 'judge.jsonl',
    run='ga',
    step=0,
  )
  assert len(stub.asked) == 1
  assert {(row['task'], row['n']) for row in results} == {('forget_qa', 1)}
