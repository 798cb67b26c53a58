"""The parts of `gpu_check.py`: a file a stage, and what they share.

`environment`, `build`, `tests`, `sanitizer`, `ceilings`, `ops`, `steps` are the stages: each has `run(part)`.
`driver` starts them as programs of their own, with a time limit each; `part` is what a stage writes; `table`
makes Markdown of it all.
"""
