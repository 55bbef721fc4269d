"""One file a task: a config dataclass and run(config); the only place where the rooms are wired together."""
