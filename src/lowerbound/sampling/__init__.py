"""Images out of models, in parts that fit in memory."""
