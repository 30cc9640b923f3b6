"""Update rules of optimisers as programs: text that is parsed, checked and interpreted, and never
executed as Python.

`program` parses and writes them, `functions` is what they may call, `execute` interprets and checks
them, `optimizer` trains by one, `known` has AdamW and Lion.
"""
