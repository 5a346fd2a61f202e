"""Several processes that train one model: how they are started, watch each other and end together."""
