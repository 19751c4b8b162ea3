"""The process inside llama-server@NAME: one model, answering OpenAI's API and others on a unix socket.

main.py starts it: environment.py, loading.py, an engine (engines.py), server.py. A request's way:
adapter.py → dialects/ → bodies.py (with messages.py, tools.py, schemas.py) → its turn → the engine →
answers.py → dialects/.
Each engine is a package: llama_cpp_python/ (the default), native/.
"""
