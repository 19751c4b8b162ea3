"""The engine `llama-cpp-python`: llama_cpp.server's app, one request at a time.

A request's way: planning.py (templates.py, grammars.py) → its turn → calling.py → llama_cpp.server's app →
completion.py (texts.py, parser.py) or embeddings.py. What it reaches into is in internals.py.
"""
