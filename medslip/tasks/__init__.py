"""One file per task: a config dataclass and run(config). Only tasks connect data, model, training and evaluation."""
