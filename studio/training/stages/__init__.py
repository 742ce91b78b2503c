"""The recipe, one module a stage, in the order of `stages.command_line.STAGES`; and its judge."""
