"""Recordings on disk and in memory: features, data sets, annotations, scores and detections."""
