"""A judge for tests: a server that says what the test wants."""

import http.server
import json
import threading

KEY = 'the-secret-of-this-test'


def reply(text):
  return 200, json.dumps({'choices': [{'message': {'content': text}}]})


class Stub(http.server.ThreadingHTTPServer):
  """Answers what the test says, and remembers what it was asked."""

  daemon_threads = True

  def __init__(self, answer):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.answer, self.asked, self.lock = answer, [], threading.Lock()
    self.under_way = self.most_at_once = 0

  def handle_error(self, request, client_address):
    """A client that stopped waiting is no error here."""


class _Handler(http.server.BaseHTTPRequestHandler):
  def log_message(self, *args):
    pass

  def do_POST(self):
    stub = self.server
    body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
    with stub.lock:
      number = len(stub.asked)
      stub.asked.append((self.path, self.headers['Authorization'], body))
      stub.under_way += 1
      stub.most_at_once = max(stub.most_at_once, stub.under_way)
    status, text, *headers = stub.answer(number, body['messages'][0]['content'])
    with stub.lock:
      stub.under_way -= 1
    self.send_response(status)
    for name, value in headers:
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(text.encode())
