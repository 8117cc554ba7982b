"""The sections of ``gpu_suite.py``, a file each, and what runs them.

``runner`` starts a process of ``job`` for every job of a section, with a time limit, and knows nothing of torch;
``sections`` says in which order. A section's module has a function ``run(context, job)``, which hands on rows as it
finds them.
"""
