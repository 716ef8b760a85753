"""The subcommands of `quped`, a module each.

A module NAME has `SUMMARY`, a line for `quped --help`; `add_arguments(parser)`;
and `run(args)`, which raises ValueError, FileNotFoundError or ImportError for
mistakes of the user, and OSError where it cannot go on. It is imported only if
the command is asked for. Of one that takes settings by name, `add_arguments`
sets `settings=()` among the defaults: `args.settings` has all words then that
are none of its options.
"""
