"""TensorRT and TensorRT-RTX: the session, its slots, the plan, the log."""
