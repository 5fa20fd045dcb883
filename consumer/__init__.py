"""The trainer: prompts, the rank's stream, the reservoir, models, objectives, training, evaluation, the ledger."""
