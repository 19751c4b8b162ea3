"""The process inside llama-server@NAME: one model, answering OpenAI's API on a unix socket.

main.py starts it: environment.py, loading.py, engine.py, server.py. A request's way: adapter.py → bodies.py
(with messages.py, tools.py, schemas.py) → planning.py (templates.py, grammars.py) → its turn →
llama_cpp.server's app → completion.py (texts.py, parser.py, replies.py) or embeddings.py → answers.py.
"""
