"""Everything that outlives the process: database, pictures on disk, jobs, page state, recipes."""
