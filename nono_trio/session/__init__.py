"""One session: who starts first, who dies last."""
