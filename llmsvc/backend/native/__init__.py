"""The engine `native`: llama.cpp's own server, several requests at once, from the package xllamacpp.

Decided after trying it out (xllamacpp 2026.10.11549 = llama.cpp b11549):

- The server runs in a process of its own (child.py, started and ended by server.py), for xllamacpp holds
  Python's lock while it loads, takes SIGTERM for itself, and writes prompts to its log. It is in our cgroup
  and sandbox, has AF_UNIX alone, and ends with us; if it crashes, so do we, and systemd starts both again.
- We talk HTTP to it on a unix socket in a directory that only we can open (http.py), not through xllamacpp's
  functions: these cannot be cancelled in a prompt, and lack most endpoints. It sees only what requests.py has
  written anew, from what the checks of all engines have passed.
- A closed connection is its only way to cancel, and it notices one only as it writes. So every request is a
  stream, with progress of the prompt after each batch, whatever the client asked for (stream.py makes whole
  answers); and a batch is bounded by the measured speed (engine.py): one that takes 0.4 s at the start of a
  context takes about twice as long at its end. That costs a CPU nothing that could be measured, and lets
  answers go on between the batches of another's prompt.
- Its /infill cuts what stands around the gap to a batch; we make that prompt ourselves (filling.py).
- Each request is given its slot by us (slots.py), for the server's choice, by likeness of prompts, moves
  users who share a system prompt into each other's slots.

- A chat template that does not end has the server started again (renewal.py).

Where it falls short of the contract: min_tokens is refused; a control token that stands in a chat gets an
invisible character (vocabulary.py).
"""
