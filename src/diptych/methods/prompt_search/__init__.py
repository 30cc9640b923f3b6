"""The search for prompts without gradients, of which `adapt.proapo` is made.

`units` are names and sentences that tell a class, `fitness` says how well some of them do, `evolution` looks for the
fittest of any sets, `descriptions` for those of each class, group by group, and `groups` says which classes go
together.
"""
