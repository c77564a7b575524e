"""The process that compiles grammars: `python -m worker.grammar`."""

from .compile_process import main

main()
